"""The table of tissues: label, name, relaxation times and proton density at clinical field strengths."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """One tissue of the simulated head.

    Args:
        label: value in the label image.
        t1: longitudinal relaxation time in ms.
        t2: transverse relaxation time in ms, as fast spin echo sees it.
        density: proton density, water = 1.
        texture: relative standard deviation of the fine texture inside it.
        spread: relative standard deviation of its slow variation inside one head.
    """

    label: int
    t1: float
    t2: float
    density: float
    texture: float = 0.02
    spread: float = 0.02


TISSUES: dict[str, Tissue] = {
    "air": Tissue(0, 1000, 10, 0.0, 0.0, 0.0),
    "csf": Tissue(1, 3900, 700, 1.0, 0.04, 0.06),
    "cortex": Tissue(2, 1300, 96, 0.83, 0.03, 0.05),
    "white_matter": Tissue(3, 800, 75, 0.70, 0.028, 0.04),
    "ventricle": Tissue(4, 4000, 900, 1.0, 0.01, 0.01),
    "caudate": Tissue(5, 1250, 88, 0.82, 0.025, 0.03),
    "putamen": Tissue(6, 1170, 80, 0.80, 0.025, 0.03),
    "pallidum": Tissue(7, 960, 60, 0.74, 0.02),
    "thalamus": Tissue(8, 1050, 82, 0.78, 0.03, 0.04),
    "hippocampus": Tissue(9, 1300, 100, 0.83, 0.025),
    "amygdala": Tissue(10, 1280, 96, 0.82, 0.02),
    "cerebellar_cortex": Tissue(11, 1250, 94, 0.83, 0.035, 0.05),
    "cerebellar_white_matter": Tissue(12, 820, 76, 0.71, 0.028, 0.04),
    "brainstem": Tissue(13, 880, 78, 0.73, 0.03, 0.05),
    "vessel": Tissue(14, 1600, 40, 0.9, 0.1, 0.15),
    "dura": Tissue(15, 900, 35, 0.5, 0.08, 0.1),
    "bone": Tissue(16, 600, 14, 0.14, 0.3, 0.3),
    "marrow": Tissue(17, 420, 60, 0.55, 0.15, 0.2),
    "muscle": Tissue(18, 1050, 38, 0.78, 0.09, 0.1),
    "fat": Tissue(19, 340, 110, 0.92, 0.09, 0.12),
    "skin": Tissue(20, 850, 45, 0.70, 0.1, 0.1),
    "eye": Tissue(21, 3800, 650, 1.0, 0.01, 0.01),
    "lens": Tissue(22, 1200, 30, 0.7, 0.02),
    "mucosa": Tissue(23, 1500, 130, 0.9, 0.08, 0.1),
    "lesion": Tissue(24, 1500, 150, 0.92, 0.05, 0.05),
}
LABELS: dict[str, int] = {name: tissue.label for name, tissue in TISSUES.items()}
BRAIN = (
    "csf", "cortex", "white_matter", "ventricle", "caudate", "putamen", "pallidum", "thalamus", "hippocampus",
    "amygdala", "cerebellar_cortex", "cerebellar_white_matter", "brainstem", "lesion",
)  # fmt: skip
