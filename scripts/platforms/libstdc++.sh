#!/bin/sh
# Builds libstdc++ for musl into /opt/musl, from Debian's sources of GCC, in a Debian 12: a Node for musl needs it, and Debian has none. Some minutes.
set -eu
version=12
rm -rf /tmp/libstdc++
mkdir -p /tmp/libstdc++ /opt/musl/lib /opt/musl/bin /opt/musl/kernel
cd /tmp/libstdc++
tar -xJf /usr/src/gcc-$version/gcc-$version*.tar.xz --strip-components=1 --exclude='*/testsuite/*' --wildcards \
  '*/libstdc++-v3' '*/libgcc' '*/libiberty' '*/libbacktrace' '*/include' '*/config' '*/config[.-]*' '*/lt*' '*/libtool*' \
  '*/mkinstalldirs' '*/install-sh' '*/missing' '*/depcomp' '*/compile' '*/move-if-change' '*/gcc/BASE-VER' '*/gcc/DATESTAMP'
# Made by GCC's own build, which isn't needed here
ln -s gthr-posix.h libgcc/gthr-default.h
mkdir -p libstdc++-v3/testsuite libstdc++-v3/scripts
echo 'all:' >libstdc++-v3/testsuite/Makefile.in
# Headers of the kernel, without glibc's beside them
for name in linux asm-generic; do ln -sfn /usr/include/$name /opt/musl/kernel/$name; done
ln -sfn /usr/include/x86_64-linux-gnu/asm /opt/musl/kernel/asm
printf '#!/bin/sh\nexec g++ "$@" -specs /usr/lib/x86_64-linux-musl/musl-gcc.specs\n' >/opt/musl/bin/g++-musl
chmod +x /opt/musl/bin/g++-musl
flags='-O1 -fPIC -idirafter /opt/musl/kernel'
mkdir build
cd build
../libstdc++-v3/configure --build=x86_64-linux-gnu --host=x86_64-linux-musl --prefix=/opt/musl --with-gxx-include-dir=/opt/musl/include/c++ \
  CC=musl-gcc CXX=/opt/musl/bin/g++-musl CFLAGS="$flags" CXXFLAGS="$flags" --disable-shared --disable-multilib --disable-nls \
  --disable-libstdcxx-pch --disable-symvers
for folder in include libsupc++ src; do make -C $folder -j"$(nproc)"; done
make -C include install
make -C libsupc++ install
/opt/musl/bin/g++-musl -nostdinc++ -I/opt/musl/include/c++ -I/opt/musl/include/c++/x86_64-linux-musl -O1 -fPIC -c "$1" -o further.o
# Without libgcc_eh, whose unwinder asks glibc's loader
musl-gcc -shared -nostdlib -Wl,-soname,libstdc++.so.6 -o /opt/musl/lib/libstdc++.so.6 "$(gcc -print-file-name=crtbeginS.o)" \
  -Wl,--whole-archive src/.libs/libstdc++.a -Wl,--no-whole-archive further.o -lc "$(gcc -print-file-name=crtendS.o)"
rm -rf /tmp/libstdc++
