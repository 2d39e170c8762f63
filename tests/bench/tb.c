/* tb: the bench's client and server. Loopback only; every client prints one line of JSON.
 *
 *   cc -O2 -pthread -o tb tb.c
 *   tb serve  PORT              one thread per connection; its first byte names the mode (see serve_one)
 *   tb up     PORT MIB          send MIB * 2^20 bytes; the server swallows them and answers one byte
 *   tb down   PORT MIB          receive MIB * 2^20 bytes
 *   tb rtt    PORT ROUNDS       1-byte echo over one connection, after WARM_UP rounds not counted
 *   tb ttfb   PORT COUNT        COUNT times, one after the other: connect, 1 byte out, 1 byte back, close
 *   tb burst  PORT COUNT        COUNT connects at once, each wants its first byte back
 *   tb many   PORT WAY N SECS   N bulk connections (WAY: up | down) and one 1-byte echo beside them
 *   tb hold   PORT COUNT        open COUNT connections, one echo each, then keep them until stdin ends
 *
 * Nothing here half-closes: Kubo's tunnel ends at the first FIN. tb_client.py is the same in Python. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { BUF = 1 << 20, MIB = 1 << 20, WARM_UP = 50, STACK = 256 * 1024, MAX_STREAMS = 256 };
static const double SETTLE_S = 0.7;      /* `many`: windows open, every connection under way */
static const int KEYSTROKE_US = 3000;    /* `many`: pause between two echoes */
static const int BURST_TIMEOUT_MS = 20000;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void nap(double seconds) {
  struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (time_t)seconds) * 1e9)};
  while (nanosleep(&t, &t) && errno == EINTR) {}
}

static void die(const char *what) { perror(what); exit(1); }

static int write_all(int fd, const void *data, size_t n) {
  for (const char *p = data; n;) {
    ssize_t k = write(fd, p, n);
    if (k <= 0) return -1;
    p += k;
    n -= k;
  }
  return 0;
}

static int read_all(int fd, void *data, size_t n) {
  for (char *p = data; n;) {
    ssize_t k = read(fd, p, n);
    if (k <= 0) return -1;
    p += k;
    n -= k;
  }
  return 0;
}

static struct sockaddr_in loopback(int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return a;
}

static void no_delay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static int dial(int port) {
  struct sockaddr_in a = loopback(port);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (void *)&a, sizeof a)) die("connect");
  no_delay(fd);
  return fd;
}

static void thread(pthread_t *id, void *(*run)(void *), void *arg) {
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, STACK);
  if (pthread_create(id, &attr, run, arg)) die("thread");
  pthread_attr_destroy(&attr);
}

/* ---- server ---- */

static void swallow(int fd, char *buf, uint64_t n) {
  while (n) {
    ssize_t k = read(fd, buf, n < BUF ? n : BUF);
    if (k <= 0) return;
    n -= k;
  }
  if (!write_all(fd, "k", 1) && read(fd, buf, 1)) {} /* let the client close first */
}

static void pour(int fd, char *buf, uint64_t n) {
  while (n) {
    size_t k = n < BUF ? n : BUF;
    if (write_all(fd, buf, k)) return;
    n -= k;
  }
  if (read(fd, buf, 1)) {}
}

static void swallow_counting(int fd, char *buf) {
  size_t unsaid = 0;
  ssize_t k;
  while ((k = read(fd, buf, BUF)) > 0)
    for (unsaid += k; unsaid >= MIB; unsaid -= MIB)
      if (write_all(fd, "m", 1)) return;
}

static void echo(int fd, char *buf) {
  ssize_t k;
  while ((k = read(fd, buf, 4096)) > 0 && !write_all(fd, buf, k)) {}
}

/* E: echo. U n: swallow n bytes, answer one. D n: send n bytes. S: swallow, one byte back per MiB. */
static void *serve_one(void *arg) {
  int fd = (int)(intptr_t)arg;
  char mode, *buf = calloc(1, BUF);
  uint64_t n;
  if (buf && !read_all(fd, &mode, 1)) {
    if (mode == 'E') echo(fd, buf);
    else if (mode == 'S') swallow_counting(fd, buf);
    else if (!read_all(fd, &n, sizeof n)) (mode == 'U' ? swallow : pour)(fd, buf, n);
  }
  close(fd);
  free(buf);
  return 0;
}

static void serve(int port) {
  struct sockaddr_in a = loopback(port);
  int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(s, (void *)&a, sizeof a) || listen(s, 4096)) die("listen");
  for (;;) {
    int fd = accept(s, 0, 0);
    pthread_t id;
    if (fd < 0) continue;
    no_delay(fd);
    thread(&id, serve_one, (void *)(intptr_t)fd);
    pthread_detach(id);
  }
}

/* ---- what the clients print ---- */

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a - *(const double *)b;
  return x < 0 ? -1 : x > 0;
}

static void print_times(const char *name, double *seconds, int n) {
  qsort(seconds, n, sizeof *seconds, by_value);
  printf("\"%s\": {\"n\": %d", name, n);
  if (n)
    printf(", \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"max\": %.1f", seconds[n / 2] * 1e6,
           seconds[n * 90 / 100] * 1e6, seconds[n * 99 / 100] * 1e6, seconds[n - 1] * 1e6);
  printf("}");
}

/* ---- clients ---- */

static void bulk(int port, int up, int mib) {
  uint64_t left = (uint64_t)mib * MIB;
  char *buf = calloc(1, BUF), head[9] = {up ? 'U' : 'D'};
  int fd = dial(port);
  memcpy(head + 1, &left, 8);
  double start = now();
  if (write_all(fd, head, 9)) die("header");
  while (left) {
    size_t want = left < BUF ? left : BUF;
    ssize_t k = up ? write(fd, buf, want) : read(fd, buf, want);
    if (k <= 0) die("transfer");
    left -= k;
  }
  if (up && read_all(fd, buf, 1)) die("acknowledgement");
  double s = now() - start;
  printf("{\"MBps\": %.1f, \"MiB\": %d, \"s\": %.4f}\n", mib * 1.048576 / s, mib, s);
}

static void round_trips(int port, int rounds) {
  double *took = calloc(rounds, sizeof *took);
  char byte;
  int fd = dial(port);
  if (write_all(fd, "E", 1)) die("mode");
  for (int i = -WARM_UP; i < rounds; i++) {
    double start = now();
    if (write_all(fd, "x", 1) || read_all(fd, &byte, 1)) die("echo");
    if (i >= 0) took[i] = now() - start;
  }
  printf("{");
  print_times("us", took, rounds);
  printf("}\n");
}

static void first_bytes(int port, int count) {
  double *took = calloc(count, sizeof *took);
  char byte;
  for (int i = 0; i < count; i++) {
    double start = now();
    int fd = dial(port);
    if (write_all(fd, "Ex", 2) || read_all(fd, &byte, 1)) die("first byte");
    took[i] = now() - start;
    close(fd);
  }
  printf("{");
  print_times("us", took, count);
  printf("}\n");
}

static void burst(int port, int count) {
  struct sockaddr_in a = loopback(port);
  struct epoll_event e, ready[64];
  double *took = calloc(count, sizeof *took), start = now();
  int ep = epoll_create1(0), done = 0, failed = 0;
  for (int i = 0; i < count; i++) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || (connect(fd, (void *)&a, sizeof a) && errno != EINPROGRESS)) die("connect");
    no_delay(fd);
    e = (struct epoll_event){.events = EPOLLOUT, .data.fd = fd};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
  }
  while (done + failed < count) {
    int n = epoll_wait(ep, ready, 64, BURST_TIMEOUT_MS);
    if (n <= 0) { failed = count - done; break; }
    for (int i = 0; i < n; i++) {
      int fd = ready[i].data.fd;
      char byte;
      if (ready[i].events & EPOLLOUT) {
        e = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
        if (!write_all(fd, "Ex", 2) && !epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e)) continue;
      } else if (read(fd, &byte, 1) == 1) {
        took[done++] = now() - start;
        epoll_ctl(ep, EPOLL_CTL_DEL, fd, 0); /* stays open until all have answered */
        continue;
      }
      failed++;
      close(fd);
    }
  }
  printf("{\"failed\": %d, ", failed);
  print_times("us", took, done);
  printf("}\n");
}

struct lane { int port, up; atomic_ullong bytes; atomic_int lost; };
static atomic_int stop;

static void *run_lane(void *arg) {
  struct lane *l = arg;
  char *buf = calloc(1, BUF), head[9] = {'D'};
  uint64_t endless = UINT64_MAX;
  int fd = dial(l->port);
  memcpy(head + 1, &endless, 8);
  if (l->up ? write_all(fd, "S", 1) : write_all(fd, head, 9)) l->lost = 1;
  while (!stop && !l->lost) {
    ssize_t k = l->up ? write(fd, buf, BUF / 4) : read(fd, buf, BUF);
    if (k <= 0) l->lost = 1;
    else if (!l->up) l->bytes += k;
    else if ((k = recv(fd, buf, 4096, MSG_DONTWAIT)) > 0) l->bytes += (uint64_t)k * MIB;
  }
  close(fd);
  return 0;
}

static void many(int port, int up, int n, double seconds) {
  static struct lane lanes[MAX_STREAMS];
  uint64_t before[MAX_STREAMS], sum = 0;
  double *took = calloc((int)((seconds + 1) * 1e6 / KEYSTROKE_US) + 1, sizeof *took);
  pthread_t id;
  char byte;
  int fd = dial(port), count = 0, lost = 0;
  if (n > MAX_STREAMS) exit(2);
  if (write_all(fd, "E", 1)) die("mode");
  for (int i = 0; i < n; i++) {
    lanes[i] = (struct lane){.port = port, .up = up};
    thread(&id, run_lane, &lanes[i]);
    pthread_detach(id);
  }
  nap(SETTLE_S);
  for (int i = 0; i < n; i++) before[i] = lanes[i].bytes;
  double start = now(), end = start + seconds, t;
  while ((t = now()) < end) {
    if (write_all(fd, "x", 1) || read_all(fd, &byte, 1)) die("echo beside bulk");
    took[count++] = now() - t;
    nap(KEYSTROKE_US * 1e-6);
  }
  double s = now() - start;
  printf("{\"streams\": [");
  for (int i = 0; i < n; i++) {
    uint64_t k = lanes[i].bytes - before[i];
    sum += k;
    lost += lanes[i].lost;
    printf("%s%.2f", i ? ", " : "", k / s / 1e6);
  }
  stop = 1;
  printf("], \"MBps\": %.1f, \"lost\": %d, \"s\": %.3f, ", sum / s / 1e6, lost, s);
  print_times("us", took, count);
  printf("}\n");
}

static void hold(int port, int count) {
  char byte;
  for (int i = 0; i < count; i++) {
    int fd = dial(port);
    if (write_all(fd, "Ex", 2) || read_all(fd, &byte, 1)) die("hold");
  }
  printf("{\"held\": %d}\n", count);
  fflush(stdout);
  while (read(0, &byte, 1) > 0) {}
}

int main(int argc, char **argv) {
  struct rlimit files;
  if (argc < 3) { fprintf(stderr, "usage: see the head of tb.c\n"); return 2; }
  signal(SIGPIPE, SIG_IGN);
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const char *cmd = argv[1];
  int port = atoi(argv[2]), n = argc > 3 ? atoi(argv[3]) : 0;
  if (!strcmp(cmd, "serve")) serve(port);
  else if (!strcmp(cmd, "up") && n > 0) bulk(port, 1, n);
  else if (!strcmp(cmd, "down") && n > 0) bulk(port, 0, n);
  else if (!strcmp(cmd, "rtt") && n > 0) round_trips(port, n);
  else if (!strcmp(cmd, "ttfb") && n > 0) first_bytes(port, n);
  else if (!strcmp(cmd, "burst") && n > 0) burst(port, n);
  else if (!strcmp(cmd, "many") && argc > 5) many(port, !strcmp(argv[3], "up"), atoi(argv[4]), atof(argv[5]));
  else if (!strcmp(cmd, "hold") && n > 0) hold(port, n);
  else return 2;
  return 0;
}
