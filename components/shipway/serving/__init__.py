"""The model server: KServe V1, Open Inference V2 and Vertex's custom container over one loaded model package."""
