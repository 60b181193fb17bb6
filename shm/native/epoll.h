/* epoll_wait with the events as two plain numbers each. Where there is no epoll, a call fails with ENOSYS. */
#ifndef SHOAL_EPOLL_H
#define SHOAL_EPOLL_H

#include <errno.h>
#include <stdint.h>

struct shoal_event {
    uint32_t events;
    int fd;
};

#ifdef __linux__
#include <sys/epoll.h>

static inline int shoal_epoll_wait(int epoll_fd, struct shoal_event *found, int most, int timeout_ms) {
    struct epoll_event events[most];
    int n = epoll_wait(epoll_fd, events, most, timeout_ms);
    for (int i = 0; i < n; i++) {
        found[i].events = events[i].events;
        found[i].fd = events[i].data.fd;
    }
    return n;
}
#else
static inline int shoal_epoll_wait(int epoll_fd, struct shoal_event *found, int most, int timeout_ms) {
    (void) epoll_fd, (void) found, (void) most, (void) timeout_ms;
    errno = ENOSYS;
    return -1;
}
#endif

#endif
