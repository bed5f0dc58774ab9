// Greedy continuations by node-llama-cpp: `node generate.mjs MODEL JOB`, the tokens as JSON on standard output.
// JOB: {prompts: [[id]], steps, suppressed: [id], end: [id], context}.

import {readFile} from "node:fs/promises";
import {getLlama, LlamaLogLevel, TokenBias} from "node-llama-cpp";

const [modelPath, jobPath] = process.argv.slice(2);
const job = JSON.parse(await readFile(jobPath, "utf8"));

// One thread everywhere: its threads wait actively, which on a busy machine takes minutes.
const llama = await getLlama({
    gpu: false, build: "never", progressLogs: false, logLevel: LlamaLogLevel.error, maxThreads: 1
});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const context = await model.createContext({contextSize: job.context, batchSize: 512, threads: 1});
const sequence = context.getSequence();
const bias = new TokenBias(model.tokenizer);
for (const id of job.suppressed) bias.set(id, "never");

const answers = [];
for (const prompt of job.prompts) {
    await sequence.clearHistory();
    const answer = [];
    for await (const id of sequence.evaluate(prompt, {temperature: 0, tokenBias: bias, yieldEogToken: true})) {
        answer.push(id);
        if (answer.length === job.steps || job.end.includes(id)) break;
    }
    answers.push(answer);
}
console.log(JSON.stringify({release: llama.llamaCppRelease.release, answers}));
process.exit(0);
