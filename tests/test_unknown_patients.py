"""Images of unknown patients: which encoders train on them, and what results say about it."""

import pytest
from example_tables import table

from thermo_jax.configs import encoder as encoder_config
from thermo_jax.data.dataset import Dataset, DataSettings
from thermo_jax.data.splits import Split
from thermo_jax.data.thermogram import Thermogram
from thermo_jax.programs import encoder
from thermo_jax.programs.frozen_encoder import encoder_caveat

STRANGER = "folder:misc"
PATIENTS = ("0001", "0002", "0003", STRANGER, STRANGER)
SPLIT = Split(train=frozenset({"0001"}), val=frozenset({"0002"}), test=frozenset({"0003"}))


def trained_on(protocol):
    config = encoder_config.get_config()
    config.split.protocol = protocol
    sets = encoder.deal_images(table(PATIENTS), SPLIT, config)
    return [[PATIENTS[row] for row in rows] for rows in sets.values()]


def test_an_honest_encoder_does_not_see_unknown_patients():
    train, validation = trained_on("honest")
    assert train == ["0001"] and validation == ["0002"]


def test_unknown_patients_train_a_transductive_encoder():
    train, validation = trained_on("transductive")
    assert train == ["0001", "0003", STRANGER, STRANGER]
    assert validation == ["0002"]


def test_unknown_patients_train_or_validate_the_papers_encoder():
    train, validation = trained_on("paper")
    assert sorted(train + validation) == sorted(PATIENTS)


def caveat(seen):
    """Return what a decoder's results say about an encoder that saw these patients."""
    records = [
        Thermogram(name=f"{i}", patient=p, patient_known=p != STRANGER)
        for i, p in enumerate(PATIENTS)
    ]
    dataset = Dataset(
        records=records,
        settings=DataSettings(root="", type="heat"),
        read_pixels=None,
        write_report=None,
    )
    meta = {"data_fingerprint": dataset.fingerprint, "seen_patients": list(seen)}
    return encoder_caveat(meta, dataset=dataset, test_patients={"0003"})


UNKNOWN = "it saw images of unknown patients, who may be test patients"
ONE_SEEN = "transductive: it saw 1 test patients unlabelled"


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (["0001", "0002"], ""),
        (["0001", STRANGER], UNKNOWN),
        (["0001", "0003"], ONE_SEEN),
        (["0003", STRANGER], f"{ONE_SEEN}; {UNKNOWN}"),
    ],
)
def test_a_decoders_results_say_that_its_encoder_saw_unknown_or_test_patients(seen, expected):
    assert caveat(seen) == expected
