// The page's Content-Security-Policy takes styles from files, and those that carry the page's nonce. Libraries that add
// style elements at run time (the terminal, scroll locks) know nothing of it: each style element is given it where it is made.
// That opens nothing: who could call this could as well read the nonce.

export const nonce = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce ?? "";

if (nonce) {
  const create = document.createElement.bind(document);
  document.createElement = ((name: string, options?: ElementCreationOptions) => {
    const element = create(name, options);
    if (name.toLowerCase() === "style") element.setAttribute("nonce", nonce);
    return element;
  }) as typeof document.createElement;
}
