import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"examples/jobs/systemd/web.service","description":"","frontmatter":{"search":false},"headers":[],"relativePath":"files/examples/jobs/systemd/web.service.md","filePath":"files/examples/jobs/systemd/web.service.md"}');
const _sfc_main = { name: "files/examples/jobs/systemd/web.service.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="examplesjobssystemdwebservice" tabindex="-1">examples/jobs/systemd/web.service <a class="header-anchor" href="#examplesjobssystemdwebservice" aria-label="Permalink to &quot;examples/jobs/systemd/web.service&quot;">​</a></h1><p>This file is in the repository, at <code>examples/jobs/systemd/web.service</code>.</p><div class="language-ini vp-adaptive-theme"><button title="Copy Code" class="copy"></button><span class="lang">ini</span><pre class="shiki shiki-themes github-light-high-contrast github-dark-high-contrast vp-code" tabindex="0"><code><span class="line"><span style="--shiki-light:#66707B;--shiki-dark:#BDC4CC;"># web.service</span></span>
<span class="line"><span style="--shiki-light:#702C00;--shiki-dark:#FFB757;">[Unit]</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">Requires</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">=web.socket</span></span>
<span class="line"></span>
<span class="line"><span style="--shiki-light:#702C00;--shiki-dark:#FFB757;">[Service]</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">Type</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">=notify</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">ExecStart</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">=/usr/bin/node /srv/web/server.mjs</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">Restart</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">=on-failure</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">WatchdogSec</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">=30</span></span></code></pre></div></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("files/examples/jobs/systemd/web.service.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const web_service = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  web_service as default
};
