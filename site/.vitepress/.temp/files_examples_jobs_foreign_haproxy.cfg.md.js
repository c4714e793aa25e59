import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"examples/jobs/foreign/haproxy.cfg","description":"","frontmatter":{"search":false},"headers":[],"relativePath":"files/examples/jobs/foreign/haproxy.cfg.md","filePath":"files/examples/jobs/foreign/haproxy.cfg.md"}');
const _sfc_main = { name: "files/examples/jobs/foreign/haproxy.cfg.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="examplesjobsforeignhaproxycfg" tabindex="-1">examples/jobs/foreign/haproxy.cfg <a class="header-anchor" href="#examplesjobsforeignhaproxycfg" aria-label="Permalink to &quot;examples/jobs/foreign/haproxy.cfg&quot;">​</a></h1><p>This file is in the repository, at <code>examples/jobs/foreign/haproxy.cfg</code>.</p><div class="language-txt vp-adaptive-theme"><button title="Copy Code" class="copy"></button><span class="lang">txt</span><pre class="shiki shiki-themes github-light-high-contrast github-dark-high-contrast vp-code" tabindex="0"><code><span class="line"><span># haproxy.cfg</span></span>
<span class="line"><span>global</span></span>
<span class="line"><span>  stats socket unix@admin.sock mode 600 level admin expose-fd listeners</span></span>
<span class="line"><span>defaults</span></span>
<span class="line"><span>  mode http</span></span>
<span class="line"><span>  timeout client 5s</span></span>
<span class="line"><span>  timeout server 5s</span></span>
<span class="line"><span>  timeout connect 5s</span></span>
<span class="line"><span>frontend web</span></span>
<span class="line"><span>  bind 127.0.0.1:3000</span></span>
<span class="line"><span>  http-request return status 200 content-type text/plain string &quot;haproxy\\n&quot;</span></span></code></pre></div></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("files/examples/jobs/foreign/haproxy.cfg.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const haproxy_cfg = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  haproxy_cfg as default
};
