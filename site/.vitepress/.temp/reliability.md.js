import { ssrRenderAttrs } from "vue/server-renderer";
import { useSSRContext } from "vue";
import { _ as _export_sfc } from "./plugin-vue_export-helper.1tPrXgE0.js";
const __pageData = JSON.parse('{"title":"Reliability","description":"","frontmatter":{},"headers":[],"relativePath":"reliability.md","filePath":"reliability.md"}');
const _sfc_main = { name: "reliability.md" };
function _sfc_ssrRender(_ctx, _push, _parent, _attrs, $props, $setup, $data, $options) {
  _push(`<div${ssrRenderAttrs(_attrs)}><h1 id="reliability" tabindex="-1">Reliability <a class="header-anchor" href="#reliability" aria-label="Permalink to &quot;Reliability&quot;">​</a></h1><p>passfd promises that it never loses, leaks or mispairs a descriptor, and that a server that is replaced or reloaded drops no request. This page lists how each promise was attacked, how often, and what the attack found. <a href="./files/attack/README.html">attack/README.md</a> describes the attacks.</p><h2 id="what-was-attacked" tabindex="-1">What was attacked <a class="header-anchor" href="#what-was-attacked" aria-label="Permalink to &quot;What was attacked&quot;">​</a></h2><p>Each line is one run on the code of this version. The last column repeats it. Times and counts depend on the machine; the seed chooses what is tried.</p><p>The runs took place on:</p><p><code>bash .ci/run full</code> also runs all tests on Debian 11, musl and ARM. <code>bash .ci/run</code> runs a sample of each attack, and two static analyzers (<code>gcc -fanalyzer</code> and cppcheck), which report nothing for the native part.</p><h2 id="what-an-attack-cant-show" tabindex="-1">What an attack can&#39;t show <a class="header-anchor" href="#what-an-attack-cant-show" aria-label="Permalink to &quot;What an attack can&#39;t show&quot;">​</a></h2><ul><li>An attack finds faults; it does not prove that there are none. Two protocols have proofs in a narrower sense: models of the <a href="./takeover-protocol.html">takeover</a> and of the <a href="./store-protocol.html">store</a> visit every state that a few processes can reach. Crashes at each step are among them. Tests run both models.</li><li>The machines were virtual ones with two cores. Faults that need many cores at once are less likely to appear there.</li><li>The kernel is trusted. The attacks let system calls fail in the ways that the manual pages describe, and not in others.</li><li>All attacks run on Linux. passfd runs on nothing else.</li></ul><h2 id="what-attacks-have-found" tabindex="-1">What attacks have found <a class="header-anchor" href="#what-attacks-have-found" aria-label="Permalink to &quot;What attacks have found&quot;">​</a></h2><p>Each of these was mended, together with others of its kind, and has a test that fails without the mend. <a href="./changelog.html">CHANGELOG.md</a> lists them too.</p></div>`);
}
const _sfc_setup = _sfc_main.setup;
_sfc_main.setup = (props, ctx) => {
  const ssrContext = useSSRContext();
  (ssrContext.modules || (ssrContext.modules = /* @__PURE__ */ new Set())).add("reliability.md");
  return _sfc_setup ? _sfc_setup(props, ctx) : void 0;
};
const reliability = /* @__PURE__ */ _export_sfc(_sfc_main, [["ssrRender", _sfc_ssrRender]]);
export {
  __pageData,
  reliability as default
};
