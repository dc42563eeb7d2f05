"""What several tests of the specifications compare with, written out by hand from the published tables."""

import pytest

from atlas.spec import library


def words(text):
    return text.split()


UNIVERSAL = words("""
    spleen kidney_right kidney_left gallbladder esophagus liver stomach aorta inferior_vena_cava
    portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left duodenum hepatic_vessel lung_right
    lung_left colon small_bowel rectum urinary_bladder prostate femur_head_left femur_head_right celiac_trunk
    kidney_tumor liver_tumor pancreas_tumor hepatic_vessel_tumor lung_tumor colon_tumor kidney_cyst
""")

TOTALSEGMENTATOR = [
    *words("""
    spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left
    lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right
    esophagus trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left
    kidney_cyst_right sacrum vertebrae_S1
    """),
    *(f"vertebrae_L{i}" for i in range(5, 0, -1)),
    *(f"vertebrae_T{i}" for i in range(12, 0, -1)),
    *(f"vertebrae_C{i}" for i in range(7, 0, -1)),
    *words("""
    heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right subclavian_artery_left
    common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right
    atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left
    iliac_artery_right iliac_vena_left iliac_vena_right humerus_left humerus_right scapula_left scapula_right
    clavicula_left clavicula_right femur_left femur_right hip_left hip_right spinal_cord gluteus_maximus_left
    gluteus_maximus_right gluteus_medius_left gluteus_medius_right gluteus_minimus_left gluteus_minimus_right
    autochthon_left autochthon_right iliopsoas_left iliopsoas_right brain skull
    """),
    *(f"rib_left_{i}" for i in range(1, 13)),
    *(f"rib_right_{i}" for i in range(1, 13)),
    *words("sternum costal_cartilages"),
]


TOTALSEGMENTATOR_V1 = [
    *words("""
    spleen kidney_right kidney_left gallbladder liver stomach aorta inferior_vena_cava portal_vein_and_splenic_vein
    pancreas adrenal_gland_right adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right
    lung_middle_lobe_right lung_lower_lobe_right
    """),
    *(f"vertebrae_L{i}" for i in range(5, 0, -1)),
    *(f"vertebrae_T{i}" for i in range(12, 0, -1)),
    *(f"vertebrae_C{i}" for i in range(7, 0, -1)),
    *words("""
    esophagus trachea heart_myocardium heart_atrium_left heart_ventricle_left heart_atrium_right heart_ventricle_right
    pulmonary_artery brain iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right small_bowel duodenum
    colon
    """),
    *(f"rib_left_{i}" for i in range(1, 13)),
    *(f"rib_right_{i}" for i in range(1, 13)),
    *words("""
    humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right femur_left femur_right hip_left
    hip_right sacrum face gluteus_maximus_left gluteus_maximus_right gluteus_medius_left gluteus_medius_right
    gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left iliopsoas_right
    urinary_bladder
    """),
]


@pytest.fixture(scope="session", autouse=True)
def _only_what_is_shipped():
    """Whoever runs the tests may have datasets of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ATLAS_PATH", raising=False)
        yield


@pytest.fixture(scope="session")
def taxonomy():
    return library.load_taxonomy()


@pytest.fixture(scope="session")
def universal():
    """The 32 classes of the CLIP-Driven Universal Model, in published order."""
    return UNIVERSAL


@pytest.fixture(scope="session")
def totalsegmentator():
    """The 117 structures of TotalSegmentator v2, in the order of their values."""
    return TOTALSEGMENTATOR


@pytest.fixture(scope="session")
def totalsegmentator_v1():
    """The 104 structures of TotalSegmentator v1, in the order of their values."""
    return TOTALSEGMENTATOR_V1


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's own folder on ATLAS_PATH; call it with folder, name and text to write a file there."""
    monkeypatch.setenv("ATLAS_PATH", str(tmp_path))

    def write(folder, name, text):
        path = tmp_path / folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write
