"""KFP interface of the split step."""

from kfp.dsl import Dataset, Input, Output

from shipway.component import component


@component()
def split(
    dataset: Input[Dataset],
    train: Output[Dataset],
    validation: Output[Dataset],
    test: Output[Dataset],
    split: str,
    data: str,
) -> None:
    """Cuts a dataset into training, validation and test part: by time, by hash of a key, or by a column.

    Args:
        dataset: The validated rows.
        train: Rows to fit on.
        validation: Rows to choose by.
        test: Rows to judge by.
        split: The spec's split section, as JSON.
        data: The spec's data section, as JSON.
    """
    from shipway.lineage.steps import step
    from shipway.spec import DataSection, load_section, load_split
    from shipway.split.split import split_dataset

    with step("split", train.path) as record:
        folders = {"train": train.path, "validation": validation.path, "test": test.path}
        result = split_dataset(dataset.path, folders, load_split(split), load_section(DataSection, data))
        train.metadata.update(result.metadata("train"))
        validation.metadata.update(result.metadata("validation"))
        test.metadata.update(result.metadata("test"))
        record.show(rows=result.rows, left_out=result.left_out, bounds=result.bounds)
