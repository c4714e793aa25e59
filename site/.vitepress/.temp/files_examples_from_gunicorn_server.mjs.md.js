import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"examples/from/gunicorn/server.mjs","description":"","frontmatter":{"search":false},"headers":[],"relativePath":"files/examples/from/gunicorn/server.mjs.md","filePath":"files/examples/from/gunicorn/server.mjs.md"}');
const _sfc_main = { name: "files/examples/from/gunicorn/server.mjs.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="examplesfromgunicornservermjs" tabindex="-1">examples/from/gunicorn/server.mjs <a class="header-anchor" href="#examplesfromgunicornservermjs" aria-label="Permalink to &quot;examples/from/gunicorn/server.mjs&quot;">​</a></h1><p>This file is in the repository, at <code>examples/from/gunicorn/server.mjs</code>.</p><div class="language-js vp-adaptive-theme"><button title="Copy Code" class="copy"></button><span class="lang">js</span><pre class="shiki shiki-themes github-light-high-contrast github-dark-high-contrast vp-code" tabindex="0"><code><span class="line"><span style="--shiki-light:#66707B;--shiki-dark:#BDC4CC;">// server.mjs</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">import</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;"> { createServer } </span><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">from</span><span style="--shiki-light:#032563;--shiki-dark:#ADDCFF;"> &#39;node:http&#39;</span></span>
<span class="line"></span>
<span class="line"><span style="--shiki-light:#622CBC;--shiki-dark:#DBB7FF;">createServer</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">((</span><span style="--shiki-light:#702C00;--shiki-dark:#FFB757;">request</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">, </span><span style="--shiki-light:#702C00;--shiki-dark:#FFB757;">response</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">) </span><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">=&gt;</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;"> response.</span><span style="--shiki-light:#622CBC;--shiki-dark:#DBB7FF;">end</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">(</span><span style="--shiki-light:#032563;--shiki-dark:#ADDCFF;">&#39;hello</span><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">\\n</span><span style="--shiki-light:#032563;--shiki-dark:#ADDCFF;">&#39;</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">)).</span><span style="--shiki-light:#622CBC;--shiki-dark:#DBB7FF;">listen</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">(</span><span style="--shiki-light:#023B95;--shiki-dark:#91CBFF;">3000</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">, </span><span style="--shiki-light:#032563;--shiki-dark:#ADDCFF;">&#39;127.0.0.1&#39;</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">)</span></span></code></pre></div></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("files/examples/from/gunicorn/server.mjs.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const server_mjs = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  server_mjs as default
};
