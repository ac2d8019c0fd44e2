"""Download the pinned corpus.

Reads   data/corpora.yaml; the network, the package index, or the folder NMT_MIRROR
Writes  data/raw: the files as delivered, after their checksums and their text were checked
Params  corpus
"""

from nmt import paths
from nmt.config import load_params
from nmt.corpora import load_corpus, read_chunks
from nmt.download import fetch_files
from nmt.files import fresh_folder
from nmt.stages.runner import run


def main() -> None:
    """Fetch, then read once: text that `prepare` could not read does not become `data/raw`."""
    wanted = load_params().corpus
    corpus = load_corpus(wanted.name, wanted.source, wanted.target)
    with fresh_folder(paths.RAW) as folder:
        fetch_files(corpus, folder)
        for chunk in read_chunks(corpus, folder, wanted.source, wanted.target):
            chunk.pairs()


if __name__ == "__main__":
    run(main)
