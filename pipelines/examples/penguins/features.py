"""Features of one's own: any scikit-learn transformer, named by `features.transformer` in the spec."""

from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

MEASURES = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
CATEGORIES = {"island": ["Biscoe", "Dream", "Torgersen"], "sex": ["female", "male"]}


def transformer() -> ColumnTransformer:
    """Returns the unfitted transformer; Shipway fits it on the training part and ships it with the model.

    Returns:
        Measurements imputed by their median and standardised; categories one-hot over fixed lists, where a missing or
        an unknown value sets no column (so that scikit-learn and the ONNX graph treat it alike).
    """
    one_hot = OneHotEncoder(categories=list(CATEGORIES.values()), handle_unknown="ignore", sparse_output=False)
    return ColumnTransformer(
        [
            ("measures", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), MEASURES),
            ("categories", one_hot, list(CATEGORIES)),
        ]
    )
