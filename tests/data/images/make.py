"""Makes the data set of this folder: images as Hugging Face datasets have them. Needs pyarrow."""

import base64
import json
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq


def png(shade):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    lines = zlib.compress((b"\0" + bytes([shade] * 4)) * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def gif():
    return b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"


images = [png(0), gif(), png(90), png(200)]
questions = [f"Question {number}: what is this?" for number in range(4)]
struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
structs = [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(images)]
pair = [[structs[number], structs[(number + 1) % 4]] for number in range(4)]
part = pa.struct([("type", pa.string()), ("text", pa.string())])
message = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
conversation = [
    [
        {
            "role": "user",
            "content": [
                {"type": "image", "text": None},
                {"type": "text", "text": question},
                {"type": "image", "text": None},
            ],
        }
    ]
    for question in questions
]
table = pa.table(
    {
        "question": questions,
        "image": pa.array(structs, struct_type),
        "pixels": pa.array(images, pa.binary()),
        "pair": pa.array(pair, pa.list_(struct_type)),
        "messages": pa.array(conversation, pa.list_(message)),
    }
)
pq.write_table(table, "images.parquet", compression="snappy")


def url(data):
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/gif"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


rows = [{"question": q, "url": url(data)} for q, data in zip(questions, images)]
with open("images.json", "w") as file:
    json.dump(rows, file, indent=1)
    file.write("\n")
