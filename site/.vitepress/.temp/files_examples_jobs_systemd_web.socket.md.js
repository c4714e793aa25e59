import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"examples/jobs/systemd/web.socket","description":"","frontmatter":{"search":false},"headers":[],"relativePath":"files/examples/jobs/systemd/web.socket.md","filePath":"files/examples/jobs/systemd/web.socket.md"}');
const _sfc_main = { name: "files/examples/jobs/systemd/web.socket.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="examplesjobssystemdwebsocket" tabindex="-1">examples/jobs/systemd/web.socket <a class="header-anchor" href="#examplesjobssystemdwebsocket" aria-label="Permalink to &quot;examples/jobs/systemd/web.socket&quot;">​</a></h1><p>This file is in the repository, at <code>examples/jobs/systemd/web.socket</code>.</p><div class="language-ini vp-adaptive-theme"><button title="Copy Code" class="copy"></button><span class="lang">ini</span><pre class="shiki shiki-themes github-light-high-contrast github-dark-high-contrast vp-code" tabindex="0"><code><span class="line"><span style="--shiki-light:#66707B;--shiki-dark:#BDC4CC;"># web.socket</span></span>
<span class="line"><span style="--shiki-light:#702C00;--shiki-dark:#FFB757;">[Socket]</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">ListenStream</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">=127.0.0.1:3000</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">FileDescriptorName</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">=http</span></span>
<span class="line"></span>
<span class="line"><span style="--shiki-light:#702C00;--shiki-dark:#FFB757;">[Install]</span></span>
<span class="line"><span style="--shiki-light:#A0111F;--shiki-dark:#FF9492;">WantedBy</span><span style="--shiki-light:#0E1116;--shiki-dark:#F0F3F6;">=sockets.target</span></span></code></pre></div></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("files/examples/jobs/systemd/web.socket.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const web_socket = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  web_socket as default
};
