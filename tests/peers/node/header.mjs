// A bundle's header by @huggingface/gguf, over HTTP ranges: `node header.mjs URL`, what it found as JSON.

import {gguf} from "@huggingface/gguf";

const {metadata, tensorInfos, tensorDataOffset} = await gguf(process.argv[2]);
const plain = (value) => typeof value === "bigint" ? Number(value) : value;
const tensors = tensorInfos.map(({name, shape, dtype, offset}) => ({name, shape: shape.map(plain), dtype, offset: plain(offset)}));
const keys = Object.fromEntries(Object.entries(metadata).map(
    ([key, value]) => [key, Array.isArray(value) ? value.length : plain(value)]
));
console.log(JSON.stringify({keys, tensors, dataOffset: plain(tensorDataOffset)}));
