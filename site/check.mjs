/**
 * `npm run docs:check`: builds the site and looks at every page of it in Chromium, as Debian packages it. With `--built` it looks at what is built
 * already. Pictures and printed pages: .cache/site.
 *
 * On each page: links and their anchors, errors, requests that leave the site, the width of a phone, code that a desk cuts off, the contrast and the
 * rest of axe-core's rules of WCAG A and AA in both colours, and whether print cuts something off. Once: the keyboard, the search, the menu of a phone, the switch of colours.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { extname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { install } from './install.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const dist = fileURLToPath(new URL('dist/', import.meta.url))
const shots = join(root, '.cache/site')
const browserPath = process.env.PASSFD_CHROMIUM ?? '/usr/bin/chromium'

const PHONE = { width: 360, height: 740 }
const DESK = { width: 1280, height: 900 }
/** What a page of A4 has between its margins, at 96 dots an inch. */
const PAPER = { width: 680, height: 1000 }
/** Pages of which pictures are made, in each form; of others, if they exist. */
const PICTURED =
  /^(index|readme|guide|performance|reliability|errors|prefork|takeover|architecture|(?:guide|prefork|jobs)\/[a-z-]+|from\/cluster|deploy\/systemd|reference\/passfd|reference\/passfd\/prefork)\.html$/

const { values } = parseArgs({ options: { built: { type: 'boolean' }, only: { type: 'string' } } })
install()
if (!existsSync(browserPath)) throw new Error(`no browser at ${browserPath}: apt-get install chromium`)
if (!values.built) {
  const { status } = spawnSync(process.execPath, [fileURLToPath(new URL('build.mjs', import.meta.url))], {
    stdio: 'inherit'
  })
  if (status !== 0) process.exit(status ?? 1)
}
const { chromium } = await import('playwright-core')
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

const server = createServer(answer).listen(0, '127.0.0.1')
await new Promise(done => server.once('listening', done))
const origin = `http://127.0.0.1:${server.address().port}`
rmSync(shots, { recursive: true, force: true })
mkdirSync(shots, { recursive: true })

const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] })
const { pagesBelow } = await import('./pages.mjs')
const pages = pagesBelow(fileURLToPath(new URL('.pages/', import.meta.url)))
  .map(path => path.replace(/\.md$/, '.html'))
  .filter(path => values.only === undefined || path.includes(values.only))
  .sort()

let passed = 0
const failures = []
/** `problems`: empty if all is well. */
function report(what, problems) {
  if (problems.length === 0) passed++
  else failures.push(...problems.map(problem => `${what}: ${problem}`))
}

const phone = await open({ viewport: PHONE, colorScheme: 'light', hasTouch: true, isMobile: true })
const desk = await open({ viewport: DESK, colorScheme: 'light' })
/** Of each page: what it links, and the ids that a link may name. */
const linked = new Map()

for (const path of pages) {
  await onPhone(path)
  // Pages that show a file are all of one form
  if (path.startsWith('files/') && !path.endsWith('takeover.ts.html')) continue
  await onDesk(path)
  console.error(`${path}: ${failures.length} failures so far`)
}
checkLinks()
await desk.tab.setViewportSize(DESK)
await desk.tab.emulateMedia({ media: null, colorScheme: 'light' })
await withKeyboard()
await withSearch()
await withMenu()
await withSwitch()
await browser.close()
server.close()
for (const failure of failures) console.log(`- ${failure}`)
console.log(`${passed} passed, ${failures.length} failed`)
process.exitCode = failures.length > 0 ? 1 : 0

/** A tab whose errors and requests are noted in `problems`. */
async function open(options) {
  const context = await browser.newContext({ ...options, reducedMotion: 'reduce' })
  const tab = await context.newPage()
  const problems = []
  tab.on('console', message => {
    if (['error', 'warning'].includes(message.type())) problems.push(`the console shows "${message.text()}"`)
  })
  tab.on('pageerror', error => problems.push(`throws ${error}`))
  tab.on('requestfailed', request => {
    // What was fetched ahead when the tab went to the next page
    if (request.failure()?.errorText !== 'net::ERR_ABORTED')
      problems.push(`can't load ${request.url()}: ${request.failure()?.errorText}`)
  })
  tab.on('request', request => {
    if (!request.url().startsWith(origin) && !request.url().startsWith('data:')) problems.push(`loads ${request.url()}`)
  })
  tab.on('response', response => {
    if (response.status() >= 400) problems.push(`${response.url()} answers ${response.status()}`)
  })
  return { tab, problems }
}

/** Loads a page, waits until it is alive, and hands out what went wrong. */
async function visit({ tab, problems }, path) {
  problems.length = 0
  await tab.goto(`${origin}/${path}`)
  await tab.waitForFunction(
    () =>
      document.querySelector('#app')?.__vue_app__ !== undefined &&
      [...document.images].every(({ complete }) => complete)
  )
  return problems
}

async function onPhone(path) {
  const { tab } = phone
  report(`${path} on a phone`, [...(await visit(phone, path))])
  const found = await tab.evaluate(() => ({
    width: document.scrollingElement.scrollWidth,
    wide: [...document.querySelectorAll('body *')]
      .filter(element => {
        const box = element.getBoundingClientRect()
        if (box.right <= innerWidth + 1 || box.width === 0) return false
        // What stands in a box that scrolls by itself does not widen the page
        for (let above = element.parentElement; above !== null; above = above.parentElement)
          if (above !== document.body && getComputedStyle(above).overflowX !== 'visible') return false
        return getComputedStyle(element).position !== 'fixed'
      })
      .slice(0, 3)
      .map(element => `${element.tagName.toLowerCase()} "${(element.textContent ?? '').trim().slice(0, 60)}"`),
    ids: [...document.querySelectorAll('[id]')].map(({ id }) => id),
    links: [...document.querySelectorAll('a[href]')].map(link => link.href),
    images: [...document.images].filter(image => image.naturalWidth === 0).map(image => image.src),
    title: document.title,
    headings: document.querySelectorAll('.vp-doc h1').length
  }))
  linked.set(path, { ids: new Set(found.ids), links: new Set(found.links) })
  report(`${path} on a phone`, [
    ...(found.width > PHONE.width ? [`is ${found.width} wide because of ${found.wide.join(', ')}`] : []),
    ...found.images.map(src => `shows no ${src}`),
    ...(found.headings === 1 ? [] : [`has ${found.headings} headings of the first level`]),
    ...(found.title.length > 0 ? [] : ['has no title'])
  ])
  await picture(tab, path, 'phone')
}

/** In both colours, and printed. */
async function onDesk(path) {
  const { tab } = desk
  await tab.setViewportSize(DESK)
  await tab.emulateMedia({ media: null, colorScheme: 'light' })
  report(`${path} on a desk`, [...(await visit(desk, path))])
  const cut = await tab.evaluate(() =>
    [...document.querySelectorAll('.vp-doc div[class*="language-"]:not(.language-, .language-txt) pre')]
      .filter(block => block.scrollWidth > block.clientWidth + 1)
      .map(block => block.textContent.trim().slice(0, 60))
  )
  report(
    `code of ${path} on a desk`,
    cut.map(code => `is cut off: "${code}"`)
  )
  await tab.evaluate(axe)
  await inColours(tab, path, 'light', { type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] })
  await tab.emulateMedia({ colorScheme: 'dark' })
  await tab.waitForFunction(() => document.documentElement.classList.contains('dark'))
  await inColours(tab, path, 'dark', { type: 'rule', values: ['color-contrast', 'link-in-text-block'] })
  await tab.emulateMedia({ colorScheme: 'light' })
  await onPaper(tab, path)
}

async function inColours(tab, path, colours, runOnly) {
  const violations = await tab.evaluate(async runOnly => {
    const { violations } = await window.axe.run(document, {
      runOnly,
      resultTypes: ['violations'],
      // The button of the search is called "Search"; the keys that open it stand beside that
      rules: runOnly.type === 'tag' ? { 'label-content-name-mismatch': { enabled: false } } : {}
    })
    return violations.map(({ id, nodes }) => `${id} at ${nodes.length}: ${nodes[0].target} ${nodes[0].failureSummary}`)
  }, runOnly)
  report(
    `${path}, ${colours}`,
    violations.map(violation => violation.replaceAll('\n', ' ').slice(0, 400))
  )
  await picture(tab, path, colours)
}

async function onPaper(tab, path) {
  await tab.setViewportSize(PAPER)
  await tab.emulateMedia({ media: 'print' })
  const cut = await tab.evaluate(() =>
    [...document.querySelectorAll('.vp-doc *')]
      .filter(element => {
        const { overflowX } = getComputedStyle(element)
        const box = element.getBoundingClientRect()
        // What only readers of a screen hear is one dot large
        if (box.width <= 1) return false
        return (overflowX !== 'visible' && element.scrollWidth > element.clientWidth + 1) || box.right > innerWidth + 1
      })
      .slice(0, 3)
      .map(element => `${element.tagName.toLowerCase()} "${(element.textContent ?? '').trim().slice(0, 60)}"`)
  )
  const shown = await tab.evaluate(() =>
    ['.VPNav', '.VPSidebar', '.VPLocalNav', '.VPDocAside', '.VPDocFooter'].filter(
      selector => (document.querySelector(selector)?.getBoundingClientRect().height ?? 0) > 0
    )
  )
  const file = join(shots, `${path.replaceAll('/', '-').replace('.html', '')}.pdf`)
  const pdf = await tab.pdf({
    format: 'A4',
    margin: { top: '15mm', bottom: '15mm', left: '15mm', right: '15mm' },
    ...(PICTURED.test(path) ? { path: file } : {})
  })
  report(`${path}, printed`, [
    ...cut.map(element => `${element} is cut off`),
    ...shown.map(selector => `has ${selector}`),
    ...(pdf.length < 2000 ? ['is empty'] : [])
  ])
}

/** The part of a page that is seen first, and of a phone two screens more. */
async function picture(tab, path, form) {
  if (!PICTURED.test(path)) return
  const { width, height } = tab.viewportSize()
  const name = `${path.replaceAll('/', '-').replace('.html', '')}-${form}.png`
  await tab.screenshot({ path: join(shots, name), fullPage: true, clip: { x: 0, y: 0, width, height: height * 3 } })
}

function checkLinks() {
  for (const [path, { links }] of linked) {
    const problems = []
    for (const link of links) {
      const { origin: at, pathname, hash } = new URL(link)
      if (at !== origin) continue
      const target =
        pathname === '/' ? 'index.html' : decodeURIComponent(pathname.slice(1)).replace(/\/$/, '/index.html')
      const found = linked.get(target) ?? linked.get(`${target}.html`)
      if (found === undefined) {
        if (!existsSync(join(dist, target)) && values.only === undefined)
          problems.push(`links ${pathname}, which is not there`)
      } else if (hash !== '' && !found.ids.has(decodeURIComponent(hash.slice(1))))
        problems.push(`links ${pathname}${hash}: no such place`)
    }
    report(`${path}, links`, problems)
  }
}

/** Tab reaches the link that skips to the text, the search, the menu, the sidebar and the text, and each shows that it has the focus. */
async function withKeyboard() {
  const { tab } = desk
  await visit(desk, 'guide.html')
  const seen = new Set()
  const problems = []
  for (let presses = 0; presses < 200 && !seen.has('text'); presses++) {
    await tab.keyboard.press('Tab')
    const focus = await tab.evaluate(() => {
      const element = document.activeElement
      const style = getComputedStyle(element)
      const places = {
        skip: '.VPSkipLink',
        search: '.VPNavBarSearch *',
        menu: '.VPNavBarMenu *',
        colours: '.VPNavBarAppearance *',
        sidebar: '.VPSidebar *',
        outline: '.VPDocAside *',
        text: '.vp-doc *'
      }
      return {
        place: Object.keys(places).find(name => element.matches(places[name])),
        isVisible: style.outlineStyle !== 'none' || style.boxShadow !== 'none',
        is: `${element.tagName.toLowerCase()} "${(element.textContent ?? '').trim().slice(0, 40)}"`
      }
    })
    if (focus.place !== undefined) seen.add(focus.place)
    if (presses === 0 && focus.place !== 'skip')
      problems.push(`the first Tab leads to ${focus.is}, not to the link that skips`)
    if (!focus.isVisible) problems.push(`${focus.is} does not show that it has the focus`)
  }
  for (const place of ['skip', 'search', 'menu', 'colours', 'sidebar', 'text'])
    if (!seen.has(place)) problems.push(`Tab does not reach: ${place}`)
  report('keyboard', problems)

  await visit(desk, 'guide.html')
  await tab.keyboard.press('Tab')
  await tab.keyboard.press('Enter')
  const skipped = await tab.evaluate(() => document.activeElement?.closest('#VPContent') !== null)
  report('the link that skips', skipped ? [] : ['does not lead to the text'])
}

async function withSearch() {
  const { tab } = desk
  const problems = [...(await visit(desk, 'index.html'))]
  await tab.keyboard.press('Control+k')
  const field = tab.locator('.VPLocalSearchBox input')
  await field.waitFor()
  for (const [words, wanted] of [
    ['takeover', /takeover/],
    ['ERR_PASSFD_DISCONNECTED', /errors/],
    ['SCM_RIGHTS', /index|\/#/],
    ['kubernets', /deploy\/kubernetes/],
    ['multi core', /jobs\/prefork/],
    ['peer credentials', /jobs\/who/],
    ['next.js', /jobs\/serve/],
    ['unix socket permission', /jobs\/who/],
    ['zero downtime', /jobs\/serve/],
    ['graceful shutdown', /jobs\/serve/],
    ['EADDRINUSE', /errors/],
    ['pm2', /from\/pm2/],
    ['sticky', /prefork\/balance/],
    ['windows', /serve\.html#on-macos-and-windows/]
  ]) {
    // The results of the words before stay until the new ones are there
    await field.fill(words)
    const results = tab.locator('.VPLocalSearchBox .result')
    let first = []
    for (const deadline = Date.now() + 10_000; Date.now() < deadline; await tab.waitForTimeout(100)) {
      first = (await results.evaluateAll(found => found.map(({ href }) => href))).slice(0, 3)
      if (first.some(href => wanted.test(href))) break
    }
    if (!first.some(href => wanted.test(href))) problems.push(`the first three for ${words} are ${first.join(', ')}`)
  }
  await tab.screenshot({ path: join(shots, 'search.png') })
  await tab.keyboard.press('Enter')
  await tab.waitForFunction(() => document.querySelector('.VPLocalSearchBox') === null)
  report('search', problems)
}

/** Of a phone, by the keyboard. */
async function withMenu() {
  const { tab } = phone
  await visit(phone, 'guide.html')
  const button = tab.locator('.VPLocalNav .menu')
  await button.focus()
  await tab.keyboard.press('Enter')
  await tab.waitForTimeout(500)
  const isOpen = await tab.locator('.VPSidebar.open').isVisible()
  await tab.screenshot({ path: join(shots, 'menu-phone.png') })
  report('the menu of a phone', isOpen ? [] : ['does not open'])
}

async function withSwitch() {
  const { tab } = desk
  await visit(desk, 'guide.html')
  const colours = () => tab.evaluate(() => getComputedStyle(document.body).backgroundColor)
  const before = await colours()
  await tab.locator('.VPNavBarAppearance button').click()
  await tab.waitForFunction(() => document.documentElement.classList.contains('dark'))
  report('the switch of colours', before === (await colours()) ? ['changes nothing'] : [])
  await tab.locator('.VPNavBarAppearance button').click()
}

/** The files of the site, as a plain server of files gives them. */
function answer(request, response) {
  const { pathname } = new URL(request.url, 'http://site')
  let file = resolve(dist, `.${decodeURIComponent(pathname)}`)
  if (!file.startsWith(dist.slice(0, -1))) return response.writeHead(403).end()
  if (existsSync(file) && statSync(file).isDirectory()) file = join(file, 'index.html')
  if (!existsSync(file))
    return response.writeHead(404, { 'content-type': 'text/html' }).end(readFileSync(join(dist, '404.html')))
  const types = {
    '.html': 'text/html',
    '.js': 'text/javascript',
    '.css': 'text/css',
    '.svg': 'image/svg+xml',
    '.json': 'application/json',
    '.png': 'image/png'
  }
  response
    .writeHead(200, { 'content-type': types[extname(file)] ?? 'application/octet-stream' })
    .end(readFileSync(file))
}
