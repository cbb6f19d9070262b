/* The relay's yardstick: what famezd/fabric/relay.py does for each doorbell, and nothing else, in C.
 *
 *     relay LOOK PAGE BELL:RECEIVER ...
 *
 * LOOK is for how many nanoseconds it looks for what comes next before it sleeps, if the last came as soon; 0 for never.
 * The other numbers are of descriptors that it inherits: PAGE of shared memory, which begins with the record of the doorbell
 * in flight (rings, index of its counter, the counter's old value), and then has a counter for each bell; all others of
 * eventfds. It waits for all bells, edge-triggered, and passes on what is rung, exact across SIGKILL as famezd is.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* As many events at once as Python's epoll objects take. */
enum { RINGS, COUNTER, OLD, COUNTERS, EVENTS = 1023 };

struct bell {
    int eventfd, receiver;
    size_t counter;
};

static void pass_on(volatile uint64_t *page, const struct bell *bell)
{
    struct iovec into = {(void *)&page[RINGS], sizeof page[RINGS]};
    uint64_t old = page[bell->counter];

    page[COUNTER] = bell->counter;
    page[OLD] = old;
    if (preadv2(bell->eventfd, &into, 1, -1, RWF_NOWAIT) < 0)
        return;
    page[bell->counter] = old + page[RINGS];
    /* A receiver's that is full has an interrupt pending already. */
    if (write(bell->receiver, (void *)&page[RINGS], sizeof page[RINGS]) < 0 && errno != EAGAIN)
        err(1, "write");
    page[RINGS] = 0;
}

static struct bell *watched(int epoll, int n, char **numbers)
{
    struct bell *bells = calloc(n, sizeof *bells);

    for (int i = 0; i < n; i++) {
        struct epoll_event event = {EPOLLIN | EPOLLET, {.ptr = &bells[i]}};

        bells[i].counter = COUNTERS + i;
        if (sscanf(numbers[i], "%d:%d", &bells[i].eventfd, &bells[i].receiver) != 2)
            errx(2, "not BELL:RECEIVER: %s", numbers[i]);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, bells[i].eventfd, &event))
            err(1, "bell %s", numbers[i]);
    }
    return bells;
}

static int64_t now(void)
{
    struct timespec clock;

    clock_gettime(CLOCK_MONOTONIC, &clock);
    return clock.tv_sec * 1000000000 + clock.tv_nsec;
}

static int look(int epoll, struct epoll_event *events, int64_t until)
{
    int ready;

    do
        ready = epoll_wait(epoll, events, EVENTS, 0);
    while (!ready && now() < until);
    return ready;
}

int main(int argc, char **argv)
{
    int n = argc - 3, epoll = epoll_create1(0);
    int64_t longest, ended = 0, waited = INT64_MAX;
    struct epoll_event events[EVENTS];
    volatile uint64_t *page;

    if (n < 1)
        errx(2, "usage: relay LOOK PAGE BELL:RECEIVER ...");
    longest = atoll(argv[1]);
    page = mmap(NULL, (COUNTERS + n) * sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
    if (page == MAP_FAILED)
        err(1, "page");
    watched(epoll, n, argv + 3);
    puts("relays");
    fflush(stdout);
    for (;;) {
        int ready = waited < longest ? look(epoll, events, ended + longest) : 0;

        if (!ready)
            ready = epoll_wait(epoll, events, EVENTS, -1);
        waited = now() - ended;
        for (int i = 0; i < ready; i++)
            pass_on(page, events[i].data.ptr);
        ended = now();
    }
}
