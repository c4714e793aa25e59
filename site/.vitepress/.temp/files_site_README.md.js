import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"The site","description":"","frontmatter":{"search":false},"headers":[],"relativePath":"files/site/README.md","filePath":"files/site/README.md"}');
const _sfc_main = { name: "files/site/README.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="the-site" tabindex="-1">The site <a class="header-anchor" href="#the-site" aria-label="Permalink to &quot;The site&quot;">​</a></h1><p><code>npm run docs</code> makes a site of the pages of this repository, in <code>site/dist</code>. Any server of files can serve that folder. Pages load nothing from elsewhere, fonts included. For a site below a path, set <code>PASSFD_SITE_BASE=/path/</code>.</p><table tabindex="0"><thead><tr><th>file</th><th>what it does</th></tr></thead><tbody><tr><td><code>build.mjs</code></td><td><code>npm run docs</code>, and with <code>--serve</code> a server on a loopback port, which follows changes of the pages</td></tr><tr><td><code>pages.mjs</code></td><td>copies the pages, and each file that they link</td></tr><tr><td><code>sidebar.mjs</code></td><td>the order of the pages. The build fails if a page is in no group</td></tr><tr><td><code>reference.mjs</code></td><td>a page for each door of <code>package.json</code>, from the doc comments of <code>src/</code></td></tr><tr><td><code>.vitepress/</code></td><td>the generator&#39;s configuration, and the style: paper, phones, drawings</td></tr><tr><td><code>check.mjs</code></td><td><code>npm run docs:check</code>: looks at each page in Chromium</td></tr><tr><td><code>drawings.mjs</code></td><td><code>npm run drawings</code>: <code>docs/drawings/NAME.svg</code> from <code>NAME.d2</code></td></tr><tr><td><code>recording.mjs</code>, <code>recording/</code></td><td><code>npm run recording</code>: <code>docs/terminal.svg</code>, from a real run in three terminals</td></tr></tbody></table><h2 id="how-to-write-a-page" tabindex="-1">How to write a page <a class="header-anchor" href="#how-to-write-a-page" aria-label="Permalink to &quot;How to write a page&quot;">​</a></h2><ul><li>A page is a file of Markdown with one <code>#</code> heading, which is its title. It must read well as a file: no HTML, no front matter, no syntax of the generator.</li><li>Links are relative, and name the file: <code>[guide](guide.md#datagrams)</code>, <code>[the program](../examples/takeover.ts)</code>. They work in a clone, on a forge and on the site. On the site a link to a file outside docs/ leads to a page that shows the file.</li><li>The name of an error, such as <a href="../../errors.html#err_passfd_disconnected"><code>ERR_PASSFD_DISCONNECTED</code></a> in code, becomes a link to the page of errors on the site. Write no link for it.</li><li>A new page of <code>docs/jobs</code>, <code>docs/from</code> or <code>docs/deploy</code> is in the sidebar by itself. Name any other new page in <code>sidebar.mjs</code>.</li></ul></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("files/site/README.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const README = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  README as default
};
