/** Each code of an error in the text becomes a link to what the errors page says of that code. */
export function errorLinks(md) {
  const rule = md.renderer.rules.code_inline
  md.renderer.rules.code_inline = (tokens, index, options, env, self) => {
    const html = rule === undefined ? self.renderToken(tokens, index, options) : rule(tokens, index, options, env, self)
    const { content } = tokens[index]
    const page = env.relativePath ?? ''
    if (!/^ERR_PASSFD_[A-Z_]*[A-Z]$/.test(content) || page === 'errors.md' || isInLink(tokens, index)) return html
    const up = '../'.repeat(page.split('/').length - 1) || './'
    return `<a href="${up}errors.html#${content.toLowerCase()}">${html}</a>`
  }
}

function isInLink(tokens, index) {
  let depth = 0
  for (const { type } of tokens.slice(0, index)) depth += type === 'link_open' ? 1 : type === 'link_close' ? -1 : 0
  return depth > 0
}
