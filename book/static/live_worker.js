/* Python in a thread of its own: the page stays alive while SymPy thinks. */
let python;

async function load(home, archives) {
  const { loadPyodide } = await import(new URL("pyodide.mjs", home));
  const py = await loadPyodide({ indexURL: home });
  for (const name of archives) {
    const bytes = await (await fetch(new URL(name, home))).arrayBuffer();
    py.unpackArchive(bytes, "zip", { extractDir: "/lib/book" });
  }
  py.runPython(`
import sys
sys.path.insert(0, "/lib/book")
from io import StringIO
from contextlib import redirect_stdout
from pyodide.code import eval_code

def answer(before, source):
    """What a notebook would show below the cell: text, or the TeX of the last value."""
    space, said = {"__name__": "__main__"}, StringIO()
    try:
        with redirect_stdout(said):
            eval_code(before, space)
            value = eval_code(source, space)
        latex = getattr(value, "_repr_latex_", lambda: None)()
        text = said.getvalue() + ("" if value is None else repr(value))
        return {"latex": None if said.getvalue() else latex, "text": text}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
`);
  return py.globals.get("answer");
}

let order = Promise.resolve();
self.onmessage = ({ data: { id, home, archives, before, source } }) => {
  order = order.then(async () => {
    try {
      python ??= await load(home, archives);
      const found = python(before, source);
      self.postMessage({ id, ...found.toJs({ dict_converter: Object.fromEntries }) });
      found.destroy();
    } catch (error) {
      self.postMessage({ id, error: `Python could not be loaded: ${error.message}` });
    }
  });
};
