// element makes a DOM node; children are nodes or text, never HTML.
export function element(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

// byId returns a node that index.html is known to have.
export const byId = (id) => document.getElementById(id);
