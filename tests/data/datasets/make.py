"""Makes the tables, lists and folders of this folder, in the shapes of public data sets. Needs only Python."""

import csv
import gzip
import json
import pathlib
import shutil

HERE = pathlib.Path(__file__).resolve().parent


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main():
    # Alpaca: one JSON list, indented.
    alpaca = [
        {"instruction": "Name a prime.", "input": "", "output": "Seven."},
        {"instruction": "Name the capital.", "input": "Peru", "output": "Lima."},
    ]
    (HERE / "alpaca.json").write_text(json.dumps(alpaca, indent=4))

    # MMLU: CSV without a header; texts have commas, quotes and line ends.
    with (HERE / "mmlu.csv").open("w", newline="") as out:
        table = csv.writer(out, lineterminator="\r\n")
        table.writerow(["Find the degree of Q(sqrt(2), sqrt(3)) over Q.", "0", "4", "2", "6", "B"])
        table.writerow(['He said "no", and left.\nWhy?', "a, b", "c", "d", "e", "A"])

    # MS MARCO: TSV without a header, where quotes are letters.
    passages = ['The "Manhattan Project" ended in 1947.', '"Why is the sky blue? Light scatters.', "5' 10\" is tall."]
    with (HERE / "collection.tsv").open("w") as out:
        out.writelines(f"{at}\t{passage}\n" for at, passage in enumerate(passages))

    # Spark: a folder of parts with checksums and a marker beside them.
    spark = HERE / "spark"
    shutil.rmtree(spark, ignore_errors=True)
    part = "part-{:05}-6f3f1c4e-6f0c-4f0a-9c5e-0c2f6a6d8f11-c000.json"
    for number, prompts in enumerate((["one", "two"], ["three"])):
        lines(spark / part.format(number), [{"prompt": prompt} for prompt in prompts])
        (spark / f".{part.format(number)}.crc").write_bytes(b"crc\0\0\0\2\0")
    (spark / "_SUCCESS").touch()

    # Hive: a column in the names of the folders, parts compressed.
    hive = HERE / "partitioned"
    shutil.rmtree(hive, ignore_errors=True)
    for language, word in (("de", "Wasser"), ("en", "water"), ("__HIVE_DEFAULT_PARTITION__", "eau")):
        folder = hive / f"lang={language}"
        folder.mkdir(parents=True)
        text = json.dumps({"word": word}) + "\n"
        (folder / "part-0.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
