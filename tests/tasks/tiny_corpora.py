"""Tiny corpora in the public formats, written by hand: no row of real data."""

from pathlib import Path

EMODB = ["03a01Wa", "03a02Fb", "03b01Na", "03b02Tc", "08a04Wa", "08a05Fa", "11a07Na", "11b03Wa", "10b09Ta", "10b10Fa"]
RAVDESS = ["03-01-01-01-01-01-01", "03-01-03-02-02-01-02", "03-01-05-01-01-02-03", "03-01-08-01-01-01-11"]
RAVDESS += ["03-01-04-01-01-01-13", "03-01-02-01-01-01-14"]

TEXTS = {
    "rain again, and no umbrella": [-2, -1, -2, -1],
    "Rain again and no umbrella!": [-1, -1, -1, -1],
    "best soup of my life &amp; a smile": [4, 3, 4, 4],
    "the shop opens at nine": [0, 0, 1, -1],
    "what a mean thing to say": [-3, -4, -2, -3],
    "she waved, he waved back": [1, 1, 0, 2],
    "lost my keys twice today": [-2, -3, -1, -2],
    "sunday pancakes": [2, 2, 1, 3],
    "the bus was on time": [1, 0, 1, 0],
    "they broke the window": [-2, -2, -3, -2],
}

EMOBANK = """id,split,V,A,D,text
a1,train,3.0,3.1,3.0,The door was open.
a2,train,4.2,3.9,3.3,"They cheered, and cheered again."
a3,train,1.8,3.4,2.5,"He said ""never"", and left."
a4,train,3.0,2.9,3.0,Yours truly
a5,train,2.6,3.0,2.9,It rained on the parade.
a6,train,3.6,3.2,3.1,A quiet morning with tea.
a7,dev,2.9,3.0,3.0,Yours truly
a8,dev,4.0,3.6,3.2,We won the cup!
"""

MOSI = """id,text_en,text_zh,label,split
ab_c1_1,I LIKED IT,我喜欢,1.8,train
ab_c1_2,NOT BAD AT ALL,不错,0.8,train
dE-9_4,THE PLOT IS THIN,情节单薄,-1.2,train
zz_10,WELL IT EXISTS,它存在,0.0,train
yy_3,"A FILM, A LONG ONE",很长的电影,-0.4,train
xx_7,GO AND SEE IT,去看吧,2.6,train
q_q_2,I SLEPT,我睡着了,-2.2,valid
"""

MMSA = """video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode
v_1,0001,"{a}",{p},{p},0.0,{n},Positive,train
v_1,0002,"{b}",{n},{n},{n},0.0,Negative,train
v_2,0001,"{a}",0.0,,,,Neutral,valid
v_3,0003,"{b}",{p},{p},{p},{p},Positive,test
v_3,0004,"{a}",{n},{n},{n},{n},Negative,test
"""


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def write_vader(root: Path, stem: str) -> None:
    """Two files, tabs, CRLF, no line end after the last row; one mean of the truth file differs, as in the original."""
    rows = [(i, sum(r) / len(r), text, r) for i, (text, r) in enumerate(TEXTS.items(), 1)]
    truth = [f"{i}\t{mean + 0.25 * (i == 4)}\t{text}" for i, mean, text, _ in rows]
    write(root / f"{stem}_GroundTruth.txt", "\r\n".join(truth))
    write(root / f"{stem}_anonDataRatings.txt", "\r\n".join(f"{i}\t{mean}\t0.5\t{r}" for i, mean, _, r in rows))


def write_mmsa(root: Path, texts: tuple[str, str], half: float, media: bool) -> None:
    table = MMSA.format(a=texts[0], b=texts[1], p=half * 0.6, n=-half * 0.8)
    write(root / "label.csv", table)
    for video, clip in (line.split(",")[:2] for line in table.splitlines()[1:]):
        if media:
            write(root / "Raw" / video / f"{clip}.mp4", b"")


def write_all(root: Path) -> None:
    """Every corpus, laid out as the configs of the tasks expect."""
    for name in EMODB:
        write(root / "emodb" / "wav" / f"{name}.wav", b"")
    for name in RAVDESS:
        write(root / "ravdess" / f"Actor_{name[-2:]}" / f"{name}.wav", b"")
    write_vader(root / "vader_icwsm2014", "tweets")
    write_vader(root / "vader_icwsm2014", "movieReviewSnippets")
    write(root / "emobank" / "emobank.csv", EMOBANK)
    write(root / "cmu_mosi" / "label.csv", MOSI)
    write_mmsa(root / "cmu_mosei", ("so I think it works", "it fell apart, really"), half=3, media=True)
    write_mmsa(root / "ch_sims", ("今天天气不错", "我不想去"), half=1, media=False)
