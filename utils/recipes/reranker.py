"""The checkpoint `reranker`: how well a passage answers a query, read together, so that word order counts. A fine-tuned MiniLM.

    python -m utils.recipes.reranker --data FOLDER        # about 40 minutes on two CPU cores, two on a GPU

A bi-encoder sees "from A to B" and "from B to A" as nearly the same. Trained on triples of a query, a passage that answers it and
one that does not: direction pairs written for this workshop, more of them made from templates below, and questions of
SQuADShifts (CC BY 4.0, folder `qa` of FOLDER) with another paragraph of the same article.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import trange
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_cosine_schedule_with_warmup

from utils.catalog import checkpoint
from utils.recipes import qa
from utils.recipes.files import texts
from utils.recipes.training import Result, embed, logits, options, save_difference
from utils.workshop import device

NAME = "reranker"
RANK = 64
BATCH = 32
TEMPLATE_TRIPLES = 8_000
ROLE_TRIPLES = 8_000
VARIED_TRIPLES = 12_000
QUESTION_TRIPLES = 9_000
Triple = tuple[str, str, str]  # query, passage that answers it, passage that does not

PLACES = """Brazil|Canada|Japan|Kenya|Norway|Peru|Portugal|Vietnam|Turkey|Egypt|Chile|Iceland|Poland|India|Mexico|Ghana|Ireland|Greece
|Thailand|Morocco|Lisbon|Osaka|Lagos|Oslo|Quito|Prague|Hanoi|Cairo|Berlin|Toronto|Mumbai|Dublin|Athens|Seoul|Nairobi|Vienna|Boston
|Marseille|Valencia|Leeds|Bremen|Turin|Gdansk|Perth|Dakar|Lima|the USA|the UK|Australia|France|Germany|Spain|Italy|China"""
PEOPLE = (
    "Anna|Boris|Chen|Dalia|Emeka|Farah|Goran|Hanna|Ivan|Jorge|Kemal|Leila|Mara|Nils|Oksana|Pablo|Rosa|Samir|Tova|Yuki"
)
TEAMS = (
    "the Hawks|the Otters|United|City|the Comets|the Wolves|Rovers|the Eagles|Athletic|the Sharks|Norwich|the Badgers"
)
FIRMS = "Aldermann|Brightwell|Corvex|Dunlow|Everly|Fintra|Gorlak|Halden Steel|Ionica|Jasper Foods|Kestrel Air|Lumora|Norvik|Ostra"
FORMATS = "PDF|Word|JPEG|PNG|CSV|Excel|MP3|WAV|HTML|Markdown|EPUB|JSON|XML|MP4|GIF|LaTeX"
UNITS = (
    "miles|kilometres|pounds|kilograms|Celsius|Fahrenheit|inches|centimetres|gallons|litres|acres|hectares|feet|metres"
)
MONEY = "euros|dollars|yen|pesos|francs|rupees|zloty|kroner|pounds sterling|reais|dirhams|rand"
TONGUES = "German|Thai|Polish|Greek|Arabic|Spanish|French|Swahili|Korean|Dutch|Finnish|Hindi|Czech|Welsh"
THINGS = (
    "stress|poor sleep|headaches|rain|inflation|drought|noise|coffee|debt|traffic|smoke|heat|strikes|floods|mould|rust"
)
BEASTS = "owls|mice|foxes|hens|spiders|wasps|sharks|seals|cats|rats|herons|frogs|wolves|deer|snakes|lizards"
VALUES = {
    name: text.replace("\n", "").split("|")
    for name, text in {
        "place": PLACES,
        "person": PEOPLE,
        "team": TEAMS,
        "firm": FIRMS,
        "format": FORMATS,
        "unit": UNITS,
        "money": MONEY,
        "tongue": TONGUES,
        "thing": THINGS,
        "beast": BEASTS,
    }.items()
}
# kind of {a} and {b}; queries; passages that mean the same. A passage with {a} and {b} exchanged is the wrong one.
TEMPLATES = [
    (
        "place",
        "flights from {a} to {b}|train {a} to {b}|how do I get from {a} to {b}|to {b} from {a}, what does it cost",
        "Departures from {a} for {b} leave every morning.|Travellers who set out in {a} reach {b} the same day."
        "|To reach {b}, board in {a} and stay on until the last stop.|Tickets from {a} to {b} are cheaper on weekdays."
        "|{b} can be reached from {a} in a day.",
    ),
    (
        "place",
        "visa for citizens of {a} going to {b}|{a} traveller to {b} need a visa|do people from {a} need a visa for {b}"
        "|entering {b} with a passport of {a}|can a {a} national visit {b} without visa",
        "Holders of a passport of {a} must apply for a visa before they enter {b}.|{b} lets visitors from {a} stay for 90 days."
        "|Nationals of {a} are admitted to {b} with an electronic permit.|For a trip to {b}, people from {a} need a valid passport."
        "|If you come from {a}, the consulate of {b} issues your visa.",
    ),
    (
        "place",
        "moving from {a} to {b}|exports from {a} to {b}|{b} imports from {a}|sending a parcel to {b} from {a}",
        "Goods made in {a} and sold in {b} are subject to duty.|Households that leave {a} to settle in {b} may bring their furniture."
        "|{b} buys more from {a} each year.|What is posted in {a} arrives in {b} within a week.",
    ),
    (
        "money",
        "{a} to {b}|exchange {a} into {b}|how many {b} for my {a}",
        "Hand in {a} and receive {b}.|We sell {b} for {a}.",
    ),
    (
        "format",
        "convert {a} to {b}|{a} into {b}|turn a {a} file into {b}",
        "Open the {a} file and save it as {b}.|This tool reads {a} and writes {b}.|You get {b} from {a} in one step.",
    ),
    (
        "unit",
        "{a} to {b}|convert {a} into {b}|{a} in {b}",
        "Enter a value in {a} to see it in {b}.|The result in {b} is computed from {a}.",
    ),
    (
        "tongue",
        "translate {a} into {b}|{a} to {b} translator|{a} text in {b}",
        "Texts written in {a} are rendered in {b}.|Our translators read {a} and write {b}.|The {b} version is made from the {a} original.",
    ),
    (
        "team",
        "{a} beat {b}|did {a} win against {b}|{b} lost to {a}",
        "{a} defeated {b} in the final.|{b} were beaten by {a}.|A late goal gave {a} the victory over {b}.|{b} went down to {a}.",
    ),
    (
        "firm",
        "{a} buys {b}|who owns {b}, is it {a}|takeover of {b} by {a}",
        "{b} now belongs to {a}.|{a} has acquired {b}.|Shareholders of {b} accepted the offer of {a}.|{b} was taken over by {a}.",
    ),
    (
        "firm",
        "{a} sues {b}|{a} supplies {b}|lawsuit of {a} against {b}",
        "{b} was taken to court by {a}.|{b} receives its parts from {a}.|{a} has filed a claim against {b}.",
    ),
    (
        "person",
        "{a} lent {b} money|who taught {b}, was it {a}|letter from {a} to {b}|{b} works for {a}",
        "{b} got it from {a}.|{b} was given it by {a}.|{a} is the one who wrote, {b} the one who answered.|{a} is the boss of {b}.",
    ),
    (
        "person",
        "{a} is taller than {b}|{a} is older than {b}|is {b} younger than {a}",
        "{b} is smaller and younger than {a}.|Of the two, {a} is the elder and the taller.|{a} was born years before {b}.",
    ),
    (
        "thing",
        "does {a} cause {b}|{b} caused by {a}|can {a} lead to {b}",
        "{b} is often the result of {a}.|Where there is {a}, {b} follows.|{a} brings about {b}.|Experts trace {b} back to {a}.",
    ),
    (
        "beast",
        "do {a} eat {b}|{b} hunted by {a}|which animals eat {b}: {a}",
        "{a} prey on {b}.|{b} are eaten by {a}.|{b} hide when {a} are near.|For {a}, {b} are food.",
    ),
]


def template_triples(count: int) -> list[Triple]:
    """Direction triples from the templates, some with a sentence around the passage."""
    generator, made = random.Random(0), []
    lead = ["", "", "Good to know: ", "As of this year, ", "In short: ", "Please note. "]
    for _ in range(count):
        kind, queries, passages = generator.choice(TEMPLATES)
        a, b = generator.sample(VALUES[kind], 2)
        query, passage = generator.choice(queries.split("|")), generator.choice(passages.split("|"))
        if generator.random() < 0.2:
            query = f"{generator.choice(['2019', '2023', 'please', 'cheap', 'quick'])} {query}"
        before = generator.choice(lead)
        made.append((query.format(a=a, b=b), before + passage.format(a=a, b=b), before + passage.format(a=b, b=a)))
    return made


# what {a} does to {b}: base form, past, participle. Said in many ways, so that the words around the roles do not matter
DEEDS = {
    "person": """hire hired hired|fire fired fired|invite invited invited|sue sued sued|teach taught taught|thank thanked thanked
|pay paid paid|replace replaced replaced|call called called|visit visited visited|follow followed followed|warn warned warned
|forgive forgave forgiven|interview interviewed interviewed|rescue rescued rescued|photograph photographed photographed
|marry married married|outrun outran outrun|train trained trained|accuse accused accused|nurse nursed nursed|elect elected elected""",
    "team": """defeat defeated defeated|beat beat beaten|eliminate eliminated eliminated|overtake overtook overtaken
|outplay outplayed outplayed|host hosted hosted|sign signed signed""",
    "firm": """buy bought bought|acquire acquired acquired|supply supplied supplied|sue sued sued|leave left left|fund funded funded
|owe owed owed|audit audited audited|found founded founded|copy copied copied|undercut undercut undercut""",
    "place": """invade invaded invaded|supply supplied supplied|recognise recognised recognised|help helped helped
|border bordered bordered|defeat defeated defeated|visit visited visited|fund funded funded|occupy occupied occupied""",
    "beast": """eat ate eaten|hunt hunted hunted|chase chased chased|catch caught caught|attack attacked attacked|fear feared feared
|avoid avoided avoided|outlive outlived outlived""",
    "thing": """cause caused caused|trigger triggered triggered|cure cured cured|relieve relieved relieved|prevent prevented prevented
|worsen worsened worsened|follow followed followed|precede preceded preceded|mask masked masked|replace replaced replaced""",
}
DEED_QUERIES = """{a} {past} {b}|did {a} {base} {b}|{b} {done} by {a}|was {b} {done} by {a}|why did {a} {base} {b}|when {a} {past} {b}
|could {a} {base} {b}|{b}, {done} by {a}|has {a} {done} {b}"""
DEED_PASSAGES = """{a} {past} {b}|{b} was {done} by {a}|it was {a} that {past} {b}|it was {b} that {a} {past}|{b} ended up {done} by {a}
|{a} has {done} {b}|{b} had never before been {done} by {a}|nobody but {a} {past} {b}|what {a} {past} was {b}
|{a} is known to have {done} {b}|{b} complained about being {done} by {a}|having {done} {b}, {a} went on as before"""
TAILS = """.| last spring.| in the end.|, witnesses say.| on Tuesday, and few were surprised.| once again.|, according to our archive.
|, although it took a while."""
# adjectives that say the same from the other side
SCALES = """taller shorter|older younger|heavier lighter|faster slower|richer poorer|stronger weaker|louder quieter|bigger smaller
|earlier later|cheaper dearer|warmer colder|higher lower|better worse|safer riskier|north south|above below|before after"""
SCALE_QUERIES = "is {a} {more} than {b}|{a} {more} than {b}|{b} {less} than {a}|which one is {more}: {a}, not {b}"
SCALE_PASSAGES = """{a} is {more} than {b}|{b} is {less} than {a}|compared with {a}, {b} is {less}|of the two, {a} is {more} and {b} {less}
|{b} is less so: {a} is the {more} one|next to {b}, {a} looks {more}|measured against {b}, {a} came out {more}"""


def _parts(text: str) -> list[str]:
    return text.replace("\n", "").split("|")


def role_triples(count: int) -> list[Triple]:
    """Who does what to whom, and what is more than what, each said in many ways; the wrong passage exchanges the roles."""
    generator, made = random.Random(2), []
    for _ in range(count):
        if generator.random() < 0.75:
            kind = generator.choice(sorted(DEEDS))
            base, past, done = generator.choice(_parts(DEEDS[kind])).split()
            words = {"base": base, "past": past, "done": done}
            queries, passages = _parts(DEED_QUERIES), _parts(DEED_PASSAGES)
        else:
            kind = generator.choice(["person", "beast", "team", "place", "firm"])
            more, less = generator.sample(generator.choice(_parts(SCALES)[:14]).split(), 2)
            words = {"more": more, "less": less}
            queries, passages = _parts(SCALE_QUERIES), _parts(SCALE_PASSAGES)
        a, b = generator.sample(VALUES[kind], 2)
        query, passage, tail = (generator.choice(choices) for choices in (queries, passages, _parts(TAILS)))
        right, wrong = ((passage + tail).format(a=x, b=y, **words) for x, y in ((a, b), (b, a)))
        made.append((query.format(a=a, b=b, **words), right[:1].upper() + right[1:], wrong[:1].upper() + wrong[1:]))
    return made


def _exchanged(right: str, wrong: str) -> tuple[str, str] | None:
    """The two phrases that changed places between two passages, if that is their only difference."""
    a, b = right.split(), wrong.split()
    changes = [op for op in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes() if op[0] != "equal"]
    if len(changes) != 2:
        return None
    (_, i1, i2, j1, j2), (_, k1, k2, l1, l2) = changes
    x, y = (" ".join(side).strip(".,;:") for side in (a[i1:i2], a[k1:k2]))
    back = [" ".join(side).strip(".,;:") for side in (b[l1:l2], b[j1:j2])]
    return (x, y) if x and y and [x.lower(), y.lower()] == [back[0].lower(), back[1].lower()] else None


def _renamed(text: str, names: dict[str, str]) -> str:
    pattern = "|".join(rf"\b{re.escape(name)}\b" for name in sorted(names, key=len, reverse=True))
    return re.sub(pattern, lambda found: names[found[0].lower()], text, flags=re.IGNORECASE)


def varied_triples(rows: list[dict[str, str]], count: int) -> list[Triple]:
    """Our own triples, also seen from the other side, and with other names where both names are of one kind."""
    generator, made = random.Random(3), []
    kinds = {value.lower(): values for values in VALUES.values() for value in values}
    names = [name for kind in ("person", "firm", "place") for name in VALUES[kind]]
    usable = []
    for row in rows:
        pair = _exchanged(row["right"], row["wrong"])
        if pair and all(re.search(rf"\b{re.escape(name)}\b", row["query"], re.IGNORECASE) for name in pair):
            usable.append((row, pair))
    for _ in range(count):
        row, (x, y) = generator.choice(usable)
        query, right, wrong = row["query"], row["right"], row["wrong"]
        kind = kinds.get(x.lower()) or kinds.get(y.lower()) or (names if x.istitle() and y.istitle() else None)
        if kind and generator.random() < 0.8:
            a, b = generator.sample(kind, 2)
            query, right, wrong = (_renamed(text, {x.lower(): a, y.lower(): b}) for text in (query, right, wrong))
            x, y = a, b
        if generator.random() < 0.5:
            query, right, wrong = _renamed(query, {x.lower(): y, y.lower(): x}), wrong, right
        made.append((query, right, wrong))
    return made


def question_triples(data: Path, count: int) -> list[Triple]:
    """Questions of SQuADShifts with their paragraph and another one."""
    generator, made = random.Random(1), []
    for name in ("new_wiki_v1.0.json.gz", "reddit_v1.0.json.gz"):
        articles = [article for article in qa.examples(data / "qa" / name) if article]
        paragraphs = sorted({context for article in articles for _, context, _ in article})
        for article in articles:
            near = sorted({context for _, context, _ in article})
            for question, context, _ in article:
                others = [p for p in (near if generator.random() < 0.5 else paragraphs) if p != context]
                made.append((question, context, generator.choice(others or paragraphs)))
    return generator.sample(made, min(count, len(made)))


def batches_of(short: list[Triple], long: list[Triple], share: float, seed: int) -> Iterator[list[Triple]]:
    """Endless batches: `share` of them questions with their long paragraphs, the others short, of similar length."""
    generator, waiting = random.Random(seed), []
    while True:
        if generator.random() < share:
            yield generator.sample(long, BATCH)
            continue
        if not waiting:
            window = sorted(generator.sample(short, 8 * BATCH), key=lambda triple: len(triple[0]) + len(triple[1]))
            waiting = [window[i : i + BATCH] for i in range(0, len(window), BATCH)]
            generator.shuffle(waiting)
        yield waiting.pop()


def train(model, tokenizer, batches: Iterator[list[Triple]], steps: int, learning_rate: float) -> None:
    """Teach `model` to score the right passage of every triple higher, with warm-up and cosine decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=60, num_training_steps=steps)
    model.train()
    for _, batch in zip(bar := trange(steps), batches, strict=False):
        queries, right, wrong = zip(*batch, strict=True)
        inputs = tokenizer(
            [*queries, *queries], [*right, *wrong], padding=True, truncation=True, max_length=128, return_tensors="pt"
        ).to(model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            scores = model(**inputs).logits
        better, worse = scores.float().view(2, -1)  # (batch,) each
        loss = F.softplus(worse - better).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")


def main() -> None:
    arguments = options(__doc__, NAME)
    base = checkpoint("minilm")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label={0: "relevance"},
        label2id={"relevance": 0},
    ).to(device())
    embeddings = model.base_model.embeddings
    before = {name: value.clone() for name, value in embeddings.state_dict().items()}
    ours = texts("direction", split="train")
    short = [(row["query"], row["right"], row["wrong"]) for row in ours] * 4 + varied_triples(ours, VARIED_TRIPLES)
    short += template_triples(TEMPLATE_TRIPLES) + role_triples(ROLE_TRIPLES)
    long = question_triples(arguments.data, QUESTION_TRIPLES)
    print(f"{len(short):,} short triples, {len(long):,} questions")
    # for some 250 steps nothing seems to happen: LoRA never got beyond that, nor did rates that were lower
    train(model, tokenizer, batches_of(short, long, 0.0, 1), 400, 1e-4)
    # words and positions go back to where they were: they need no place in the adapter then, and it costs nothing
    for name in ("word_embeddings", "position_embeddings"):
        getattr(embeddings, name).weight.data.copy_(before[f"{name}.weight"])
        getattr(embeddings, name).requires_grad_(False)
    train(model, tokenizer, batches_of(short, long, 0.08, 2), 600, 8e-5)
    train(model, tokenizer, batches_of(short, long, 0.4, 3), 420, 5e-5)
    save_difference(model, base, arguments.output, RANK)


def results(path: str, data: Path | None) -> list[Result]:
    """How often the right passage of our direction pairs comes first, and search over our passages, MiniLM beside it."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSequenceClassification.from_pretrained(path)
    minilm = checkpoint("minilm")
    triples = texts("direction", split="test")
    queries, right, wrong = ([row[key] for row in triples] for key in ("query", "right", "wrong"))
    ours = (logits(model, tokenizer, queries, right) > logits(model, tokenizer, queries, wrong)).float().mean()
    q, r, w = (embed(minilm, side) for side in (queries, right, wrong))
    theirs = ((q * r).sum(-1) > (q * w).sum(-1)).float().mean()
    passages, asked = texts("search"), texts("search_queries")
    ids = [row["passage_id"] for row in passages]
    bodies = [f"{row['title']}. {row['passage']}" for row in passages]
    similarity = embed(minilm, [row["query"] for row in asked]) @ embed(minilm, bodies).T  # (queries, passages)
    first = again = 0.0
    for row, scores in zip(asked, similarity, strict=True):
        best = scores.topk(10).indices.tolist()
        reranked = logits(model, tokenizer, [row["query"]] * 10, [bodies[i] for i in best])[:, 0].argsort(
            descending=True
        )
        for total, order in (("first", best), ("again", [best[i] for i in reranked])):
            found = [ids[i] for i in order]
            gain = 1 / (1 + found.index(row["passage_id"])) if row["passage_id"] in found else 0.0
            first, again = (first + gain, again) if total == "first" else (first, again + gain)
    return [
        (f"own direction pairs, {len(triples)}: reranker prefers the right one, %", 100 * ours.item()),
        ("the same by MiniLM's embeddings, %", 100 * theirs.item()),
        (f"own search, {len(asked)} queries: mean reciprocal rank by embeddings", first / len(asked)),
        ("the same with the best ten reranked", again / len(asked)),
    ]


if __name__ == "__main__":
    main()
