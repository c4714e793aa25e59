/* What a Node for musl needs beside the libstdc++ of GCC 12 and Debian's libgcc_s for glibc: see libstdc++.sh. */
#include <cstring>
#include <string>

/* std::string's own since GCC 13: replaces `removed` characters at `at`, behind which `tail` follow, by `length` others. */
extern "C" void replace_cold(std::string *, char *, std::size_t, const char *, std::size_t, std::size_t) __asm__(
	"_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE15_M_replace_coldEPcmPKcmm");

extern "C" void replace_cold(std::string *, char *at, std::size_t removed, const char *source, std::size_t length,
	std::size_t tail)
{
	std::string copy(source, length); /* the source may lie in what is moved */
	std::memmove(at + length, at + removed, tail);
	std::memcpy(at, copy.data(), length);
}

/* libgcc_s has these under an old version of their names, which musl's loader does not look at. */
extern "C" {
struct {
	unsigned vendor, type, subtype, features[1];
} __cpu_model;

int __cpu_indicator_init(void)
{
	return 0;
}
}
