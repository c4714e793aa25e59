/** What terminals show, as one SVG: text that a reader can select, and colours of its own, which stand on a light page and on a dark one. */

const CELL = { width: 7.8, height: 17 }
const PADDING = 14
const TITLE = 26
const GAP = 16
const BACKGROUND = '#16161d'
const TEXT = '#dcd7ba'
const DIM = '#9a9a92'
/** The sixteen colours of a terminal, in its order. */
const COLOURS = [
  '#16161d',
  '#ff7a70',
  '#98bb6c',
  '#e6c384',
  '#7fb4ca',
  '#c8a0d8',
  '#7fc8b8',
  '#dcd7ba',
  '#9a9a92',
  '#ff8d84',
  '#a9cf7c',
  '#f2d49b',
  '#93c7dc',
  '#d7b4e5',
  '#93d8c9',
  '#ffffff'
]

/** `terminals`: `{ title, buffer, columns, rows }` of @xterm/headless, from above. `text`: for those who can't see the picture. */
export function picture(terminals, text) {
  const columns = Math.max(...terminals.map(({ columns }) => columns))
  const width = Math.ceil(columns * CELL.width + 2 * PADDING)
  let top = 0
  const windows = terminals.map(({ title, buffer, rows }) => {
    const height = TITLE + rows * CELL.height + 2 * PADDING
    const lines = Array.from({ length: rows }, (_, row) => line(buffer, row)).join('')
    const window = `<g transform="translate(0,${top})"><rect width="${width}" height="${height}" rx="8" fill="${BACKGROUND}"/>${bar(title, width)}<g transform="translate(${PADDING},${TITLE + PADDING})">${lines}</g></g>`
    top += height + GAP
    return window
  })
  const height = top - GAP
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="13">\n<title>${escaped(text)}</title>\n${windows.join('\n')}\n</svg>\n`
}

function bar(title, width) {
  const dots = ['#ff5f57', '#febc2e', '#28c840'].map(
    (colour, index) => `<circle cx="${16 + index * 16}" cy="15" r="5" fill="${colour}"/>`
  )
  return `${dots.join('')}<text x="${width / 2}" y="19" fill="${DIM}" text-anchor="middle" font-size="12">${escaped(title)}</text>`
}

/** A run of cells of one look is one text, as wide as its cells whatever font the reader has. */
function line(buffer, row) {
  const cells = buffer.getLine(row)
  if (cells === undefined) return ''
  const runs = []
  for (let column = 0; column < cells.length; column++) {
    const cell = cells.getCell(column)
    if (cell.getWidth() === 0) continue
    const look = lookOf(cell)
    const last = runs.at(-1)
    if (last?.key === look.key) last.text += cell.getChars() || ' '
    else runs.push({ ...look, column, text: cell.getChars() || ' ' })
  }
  const y = row * CELL.height
  return runs
    .filter(({ text, back }) => text.trim() !== '' || back !== undefined)
    .map(({ text, column, fill, back, bold }) => {
      const ahead = text.length - text.trimStart().length
      const shown = text.trim()
      const box =
        back === undefined
          ? ''
          : `<rect x="${at(column)}" y="${y}" width="${at(text.length)}" height="${CELL.height}" fill="${back}"/>`
      if (shown === '') return box
      return `${box}<text x="${at(column + ahead)}" y="${y + 13}" fill="${fill}" textLength="${at(shown.length)}" lengthAdjust="spacingAndGlyphs" xml:space="preserve"${bold ? ' font-weight="bold"' : ''}>${escaped(shown)}</text>`
    })
    .join('')
}

function lookOf(cell) {
  const colour = (isPalette, number, other) => (isPalette && number < 16 ? COLOURS[number] : other)
  const fore = colour(cell.isFgPalette(), cell.getFgColor(), cell.isDim() ? DIM : TEXT)
  const back = colour(cell.isBgPalette(), cell.getBgColor(), undefined)
  const bold = cell.isBold() !== 0
  const [fill, behind] = cell.isInverse() ? [back ?? BACKGROUND, fore] : [fore, back]
  return { fill, back: behind, bold, key: `${fill} ${behind} ${bold}` }
}

function at(columns) {
  return Number((columns * CELL.width).toFixed(1))
}

function escaped(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
