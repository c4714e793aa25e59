import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"examples/from/pm2/ecosystem.config.cjs","description":"","frontmatter":{"search":false},"headers":[],"relativePath":"files/examples/from/pm2/ecosystem.config.cjs.md","filePath":"files/examples/from/pm2/ecosystem.config.cjs.md"}');
const _sfc_main = { name: "files/examples/from/pm2/ecosystem.config.cjs.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="examplesfrompm2ecosystemconfigcjs" tabindex="-1">examples/from/pm2/ecosystem.config.cjs <a class="header-anchor" href="#examplesfrompm2ecosystemconfigcjs" aria-label="Permalink to &quot;examples/from/pm2/ecosystem.config.cjs&quot;">​</a></h1><p>This file is in the repository, at <code>examples/from/pm2/ecosystem.config.cjs</code>.</p><div class="language-js vp-adaptive-theme"><button title="Copy Code" class="copy"></button><span class="lang">js</span><pre class="shiki shiki-themes github-light-high-contrast github-dark-high-contrast vp-code" tabindex="0"><code><span class="line"><span style="--shiki-light:#66707B;--shiki-dark:#BDC4CC;">// ecosystem.config.cjs</span></span>
<span class="line"><span style="--shiki-light:#023B95;--shiki-dark:#91CBFF;">module</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">.</span><span style="--shiki-light:#023B95;--shiki-dark:#91CBFF;">exports</span><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;"> =</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;"> {</span></span>
<span class="line"><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">  apps: [{ name: </span><span style="--shiki-light:#032563;--shiki-dark:#ADDCFF;">&#39;shop&#39;</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">, script: </span><span style="--shiki-light:#032563;--shiki-dark:#ADDCFF;">&#39;server.mjs&#39;</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">, instances: </span><span style="--shiki-light:#023B95;--shiki-dark:#91CBFF;">2</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">, kill_timeout: </span><span style="--shiki-light:#023B95;--shiki-dark:#91CBFF;">5000</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">, max_memory_restart: </span><span style="--shiki-light:#032563;--shiki-dark:#ADDCFF;">&#39;300M&#39;</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;"> }]</span></span>
<span class="line"><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">}</span></span></code></pre></div></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("files/examples/from/pm2/ecosystem.config.cjs.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const ecosystem_config_cjs = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  ecosystem_config_cjs as default
};
