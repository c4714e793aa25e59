import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"PLACEHOLDER jobs/another-language.md","description":"","frontmatter":{},"headers":[],"relativePath":"jobs/another-language.md","filePath":"jobs/another-language.md"}');
const _sfc_main = { name: "jobs/another-language.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="placeholder-jobsanother-languagemd" tabindex="-1">PLACEHOLDER jobs/another-language.md <a class="header-anchor" href="#placeholder-jobsanother-languagemd" aria-label="Permalink to &quot;PLACEHOLDER jobs/another-language.md&quot;">​</a></h1></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("jobs/another-language.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const anotherLanguage = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  anotherLanguage as default
};
