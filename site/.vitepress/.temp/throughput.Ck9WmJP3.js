const _imports_2 = "/assets/throughput.Cq5xoZ_z.svg";
export {
  _imports_2 as _
};
