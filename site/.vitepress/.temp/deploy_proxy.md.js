import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"PLACEHOLDER deploy/proxy.md","description":"","frontmatter":{},"headers":[],"relativePath":"deploy/proxy.md","filePath":"deploy/proxy.md"}');
const _sfc_main = { name: "deploy/proxy.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="placeholder-deployproxymd" tabindex="-1">PLACEHOLDER deploy/proxy.md <a class="header-anchor" href="#placeholder-deployproxymd" aria-label="Permalink to &quot;PLACEHOLDER deploy/proxy.md&quot;">​</a></h1></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("deploy/proxy.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const proxy = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  proxy as default
};
