/*
 * Loaded into a program before the C library (LD_PRELOAD): its wall clock is CELLAR_TEST_CLOCK seconds ahead. The clocks that
 * do not jump are the kernel's. Debian's libfaketime shares a semaphore between a program and its children, which those of
 * another user may not open.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t ahead(void)
{
    const char *text = getenv("CELLAR_TEST_CLOCK");
    return text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int) syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += ahead();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    int result = (int) syscall(SYS_gettimeofday, time, zone);
    if (result == 0)
        time->tv_sec += ahead();
    return result;
}

time_t time(time_t *told)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told)
        *told = now.tv_sec;
    return now.tv_sec;
}
