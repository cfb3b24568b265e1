/* Imitates odd file systems:  gcc -shared -fPIC -o shim.so odd_filesystems.c -ldl;  NOLOCK=1 LD_PRELOAD=shim.so ...

   NOLOCK: files cannot be locked (NFS without lockd). NOLOCKDIR: nor can folders. NODIRSYNC: folders cannot be flushed
   (CIFS, VirtualBox). NOLINK: there are no hard links (exFAT). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int refuses(const char *name, int fd, mode_t kind)
{
    struct stat st;
    return getenv(name) && !fstat(fd, &st) && (st.st_mode & S_IFMT) == kind;
}

int flock(int fd, int operation)
{
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    if (refuses("NOLOCK", fd, S_IFREG) || refuses("NOLOCKDIR", fd, S_IFDIR)) {
        errno = ENOLCK;
        return -1;
    }
    return real(fd, operation);
}

int fsync(int fd)
{
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    if (refuses("NODIRSYNC", fd, S_IFDIR)) {
        errno = EINVAL;
        return -1;
    }
    return real(fd);
}

int link(const char *from, const char *to)
{
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "link");
    if (getenv("NOLINK")) {
        errno = EPERM;
        return -1;
    }
    return real(from, to);
}
