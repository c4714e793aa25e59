import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"PLACEHOLDER deploy/systemd.md","description":"","frontmatter":{},"headers":[],"relativePath":"deploy/systemd.md","filePath":"deploy/systemd.md"}');
const _sfc_main = { name: "deploy/systemd.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="placeholder-deploysystemdmd" tabindex="-1">PLACEHOLDER deploy/systemd.md <a class="header-anchor" href="#placeholder-deploysystemdmd" aria-label="Permalink to &quot;PLACEHOLDER deploy/systemd.md&quot;">​</a></h1></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("deploy/systemd.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const systemd = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  systemd as default
};
