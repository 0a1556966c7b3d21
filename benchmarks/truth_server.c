// The truth of the benchmarks: a server that streams on an exact schedule and logs every write.
//
//   truth_server TTFT_US ITL_US TOKENS EVENTS_PER_WRITE GRID MAX_RECORDS LOG
//
// It speaks as much of vLLM's API as load clients ask for and prints its port (loopback). Every
// streamed completion has TOKENS events in chunks shaped as vLLM 0.32's (about 235 bytes), the
// first TTFT_US after the request, the others ITL_US apart. GRID 1 rounds all to a common grid of
// ITL_US, as the steps of an engine do: every stream gets its token at the same moment, the hard
// case. With TTFT_US and ITL_US 0 it floods: round robin, one write of EVENTS_PER_WRITE events for
// each stream.
//
// GET /_truth/log writes the log: records of 32 bytes {u32 request, i32 event, i64 scheduled,
// i64 before, i64 after}, nanoseconds of CLOCK_MONOTONIC around each send(). Event 0.. is a token;
// -1 the request, with `scheduled` = the kernel's time of its arrival and `before` = when it was
// read; -2 the end of the body. A request is numbered by "stub_tag" in its body, else counted.
// GET /_truth/stats answers counts and the server's own CPU seconds. In C, so that it is never the
// limit of a client; one thread, one epoll loop.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ARRIVED = -1, ENDED = -2, EVENTS = 1024, HEAD = 512, VOCABULARY = 4096 };

typedef struct {
    uint32_t request;
    int32_t event;
    int64_t scheduled, before, after;
} record;

typedef struct {
    int fd, closing, waiting, active, usage, next, place;
    uint32_t request;
    int64_t arrival, due;
    char *in, *out;
    size_t in_len, in_cap, out_len, out_sent, out_cap;
    char prefix[HEAD];
    size_t prefix_len;
} connection;

static char words[VOCABULARY][16];
static size_t word_lens[VOCABULARY];
static const char SUFFIX[] =
    "\",\"logprobs\":null,\"finish_reason\":%s,\"stop_reason\":null,"
    "\"prompt_token_ids\":null,\"token_ids\":null}]}\n\n";
static char suffixes[2][HEAD];  // of all events but the last, and of the last
static size_t suffix_lens[2];

static int64_t ttft_ns, itl_ns, clock_offset;
static int tokens, per_write, grid, flood, epoll_fd;
static record* records;
static uint64_t record_count, record_most, events_sent, requests_seen, writes_done;
static const char* log_path;
static connection** queue;  // paced: a heap by `due`; flood: a list
static int queued, queue_cap;

static int64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static void note(uint32_t request, int event, int64_t scheduled, int64_t before, int64_t after) {
    if (record_count < record_most)
        records[record_count++] = (record){request, event, scheduled, before, after};
}

// --- the queue -------------------------------------------------------------------------------

static void put_at(int place, connection* c) {
    queue[place] = c;
    c->place = place;
}

static void settle(int place) {  // restores the heap around one changed place
    if (flood) return;
    connection* c = queue[place];
    while (place && queue[(place - 1) / 2]->due > c->due) {
        put_at(place, queue[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (int child; (child = 2 * place + 1) < queued; place = child) {
        if (child + 1 < queued && queue[child + 1]->due < queue[child]->due) child++;
        if (queue[child]->due >= c->due) break;
        put_at(place, queue[child]);
    }
    put_at(place, c);
}

static void enqueue(connection* c) {
    if (queued == queue_cap) {
        queue_cap = queue_cap ? queue_cap * 2 : EVENTS;
        queue = realloc(queue, queue_cap * sizeof *queue);
    }
    put_at(queued++, c);
    settle(c->place);
}

static void dequeue(connection* c) {
    int place = c->place;
    if (place < 0) return;
    c->place = -1;
    connection* last = queue[--queued];
    if (last == c) return;
    put_at(place, last);
    settle(place);
}

// --- writing ---------------------------------------------------------------------------------

static void append(connection* c, const char* text, size_t length) {
    if (c->out_len + length > c->out_cap) {
        c->out_cap = (c->out_len + length) * 2 + 4096;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, text, length);
    c->out_len += length;
}

static void want_writable(connection* c, int wanted) {
    if (c->waiting == wanted) return;
    c->waiting = wanted;
    struct epoll_event e = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void flush(connection* c) {
    while (c->out_sent < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            if (errno == EAGAIN)
                want_writable(c, 1);
            else
                c->closing = 1;
            return;
        }
        c->out_sent += n;
        writes_done++;
    }
    c->out_sent = c->out_len = 0;
    want_writable(c, 0);
}

static void append_chunk(connection* c, const char* a, size_t a_len, const char* b, size_t b_len,
                         const char* d, size_t d_len) {
    char size[20];
    append(c, size, snprintf(size, sizeof size, "%zx\r\n", a_len + b_len + d_len));
    append(c, a, a_len);
    append(c, b, b_len);
    append(c, d, d_len);
    append(c, "\r\n", 2);
}

static void answer(connection* c, const char* status, const char* body) {
    char head[256];
    append(c, head,
           snprintf(head, sizeof head,
                    "HTTP/1.1 %s\r\ncontent-type: application/json\r\n"
                    "content-length: %zu\r\n\r\n",
                    status, strlen(body)));
    append(c, body, strlen(body));
    flush(c);
}

static void finish(connection* c) {
    char text[HEAD];
    if (c->usage) {
        int n =
            snprintf(text, sizeof text,
                     "data: {\"id\":\"cmpl-%08x\",\"object\":\"text_completion\",\"created\":"
                     "1795362747,\"model\":\"truth\",\"choices\":[],\"usage\":{\"prompt_tokens\":"
                     "16,\"total_tokens\":%d,\"completion_tokens\":%d}}\n\n",
                     c->request, tokens + 16, tokens);
        append_chunk(c, text, n, "", 0, "", 0);
    }
    append_chunk(c, "data: [DONE]\n\n", 14, "", 0, "", 0);
    append(c, "0\r\n\r\n", 5);
    int64_t before = now_ns();
    flush(c);
    note(c->request, ENDED, before, before, now_ns());
    c->active = 0;
    dequeue(c);
}

static void emit(connection* c) {  // one write, and the end after the last
    int first = c->next;
    for (int i = 0; i < per_write && c->next < tokens; i++, c->next++) {
        // some words often, most of them seldom: a client may not live on knowing them all
        uint32_t drawn = (c->next * 2654435761u + c->request * 40503u) >> 20;
        int word = drawn * drawn / VOCABULARY;
        int last = c->next == tokens - 1;
        append_chunk(c, c->prefix, c->prefix_len, words[word], word_lens[word],
                     suffixes[last], suffix_lens[last]);
    }
    int64_t before = now_ns();
    flush(c);
    int64_t after = now_ns();
    for (int k = first; k < c->next; k++) note(c->request, k, c->due, before, after);
    events_sent += c->next - first;
    if (c->next >= tokens && !c->closing) finish(c);
}

// --- reading ---------------------------------------------------------------------------------

static long number_after(const char* text, size_t length, const char* key, long otherwise) {
    const char* at = memmem(text, length, key, strlen(key));
    if (!at) return otherwise;
    for (at += strlen(key); at < text + length && strchr("\": ", *at); at++) {
    }
    return strtol(at, NULL, 10);
}

static void begin_stream(connection* c, const char* body, size_t length) {
    int64_t read_at = now_ns();
    if (!requests_seen++) {  // for whoever waits for the work to begin
        puts("first");
        fflush(stdout);
    }
    c->usage = memmem(body, length, "include_usage", 13) != NULL;
    c->request = number_after(body, length, "\"stub_tag\"", requests_seen - 1);
    c->next = 0;
    note(c->request, ARRIVED, c->arrival, read_at, read_at);
    c->prefix_len =
        snprintf(c->prefix, HEAD,
                 "data: {\"id\":\"cmpl-%08x\",\"object\":\"text_completion\",\"created\":"
                 "1795362747,\"model\":\"truth\",\"choices\":[{\"index\":0,\"text\":\"",
                 c->request);
    static const char head[] =
        "HTTP/1.1 200 OK\r\nserver: uvicorn\r\n"
        "content-type: text/event-stream; charset=utf-8\r\n"
        "transfer-encoding: chunked\r\n\r\n";
    append(c, head, sizeof head - 1);
    flush(c);
    c->due = read_at + ttft_ns;
    if (grid && itl_ns) c->due = (c->due + itl_ns - 1) / itl_ns * itl_ns;
    c->active = 1;
    enqueue(c);
}

static void write_log(void) {
    FILE* f = fopen(log_path, "wb");
    if (!f) return;
    fwrite(records, sizeof *records, record_count, f);
    fclose(f);
}

static void serve(connection* c, const char* head, size_t head_len, const char* body,
                  size_t length) {
    const char* line_end = memchr(head, '\r', head_len);
    size_t line = line_end - head;
    if (memmem(head, line, " /v1/completions ", 17)) {
        begin_stream(c, body, length);
    } else if (memmem(head, line, " /v1/models", 11)) {
        answer(c, "200 OK",
               "{\"object\":\"list\",\"data\":[{\"id\":\"truth\",\"object\":\"model\","
               "\"created\":1795362747,\"owned_by\":\"vllm\",\"root\":\"truth\","
               "\"parent\":null,\"max_model_len\":1048576}]}");
    } else if (memmem(head, line, " /health", 8)) {
        answer(c, "200 OK", "");
    } else if (memmem(head, line, " /_truth/log", 12)) {
        write_log();
        answer(c, "200 OK", "{}");
    } else if (memmem(head, line, " /_truth/stats", 14)) {
        struct rusage used;
        getrusage(RUSAGE_SELF, &used);
        char text[300];
        snprintf(text, sizeof text,
                 "{\"events\":%lu,\"requests\":%lu,\"writes\":%lu,\"cpu_s\":%.6f}", events_sent,
                 requests_seen, writes_done,
                 used.ru_utime.tv_sec + used.ru_stime.tv_sec +
                     (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
        answer(c, "200 OK", text);
    } else {
        answer(c, "404 Not Found", "{\"detail\":\"Not Found\"}");
    }
}

static int receive(connection* c) {  // 1: something came
    if (c->in_cap - c->in_len < 65536) {
        c->in_cap = c->in_cap * 2 + 131072;
        c->in = realloc(c->in, c->in_cap);
    }
    char control[128];
    struct iovec part = {c->in + c->in_len, c->in_cap - c->in_len};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof control};
    ssize_t n = recvmsg(c->fd, &m, 0);
    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) c->closing = 1;
        return 0;
    }
    c->arrival = now_ns();
    for (struct cmsghdr* h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
        if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SO_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(h), sizeof t);
            c->arrival = t.tv_sec * 1000000000LL + t.tv_nsec - clock_offset;
        }
    c->in_len += n;
    return 1;
}

static void read_requests(connection* c) {
    while (!c->active && !c->closing && c->in_len) {
        char* head_end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!head_end) return;
        size_t head_len = head_end + 4 - c->in, length = 0;
        for (char* p = c->in; p < head_end; p++)
            if (*p == '\n' && !strncasecmp(p + 1, "content-length:", 15)) length = atol(p + 16);
        if (c->in_len < head_len + length) return;
        serve(c, c->in, head_len, c->in + head_len, length);
        c->in_len -= head_len + length;
        memmove(c->in, c->in + head_len + length, c->in_len);
    }
}

static void drop(connection* c) {
    dequeue(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void accept_all(int listener) {
    for (int fd, one = 1; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connection* c = calloc(1, sizeof *c);
        c->fd = fd;
        c->place = -1;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

// --- the loop --------------------------------------------------------------------------------

static int emit_due(void) {  // returns whether something could be written
    int wrote = 0;
    if (flood) {
        for (int i = 0; i < queued;) {
            connection* c = queue[i];
            if (!c->waiting) {
                emit(c);
                wrote = 1;
            }
            if (c->closing)
                drop(c);
            else if (i < queued && queue[i] == c)
                i++;
        }
        return wrote;
    }
    for (int64_t now = now_ns(), i = 0; queued && queue[0]->due <= now; i++) {
        connection* c = queue[0];
        emit(c);
        if (c->closing)
            drop(c);
        else if (c->active) {
            c->due += itl_ns;
            settle(0);
        }
        if ((i & 15) == 15) now = now_ns();
    }
    return 0;
}

static int listen_on_loopback(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    // accepted sockets inherit the option, so that also their first packets are stamped
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
    if (bind(fd, (void*)&at, sizeof at) || listen(fd, 4096) ||
        getsockname(fd, (void*)&at, &length)) {
        perror("listen");
        exit(1);
    }
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char** argv) {
    if (argc != 8) {
        fputs("usage: truth_server TTFT_US ITL_US TOKENS EVENTS_PER_WRITE GRID MAX_RECORDS LOG\n",
              stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1);
    ttft_ns = atol(argv[1]) * 1000;
    itl_ns = atol(argv[2]) * 1000;
    tokens = atoi(argv[3]);
    per_write = atoi(argv[4]);
    grid = atoi(argv[5]);
    record_most = strtoull(argv[6], NULL, 10);
    log_path = argv[7];
    flood = !ttft_ns && !itl_ns;
    clock_offset = clock_ns(CLOCK_REALTIME) - now_ns();
    for (int word = 0; word < VOCABULARY; word++) {
        char* at = words[word];
        *at++ = ' ';
        for (int left = word + 1; left; left /= 6) *at++ = "etaoin"[left % 6];
        word_lens[word] = at - words[word];
    }
    for (int last = 0; last < 2; last++)
        suffix_lens[last] = snprintf(suffixes[last], HEAD, SUFFIX, last ? "\"length\"" : "null");
    records = mmap(NULL, (record_most + 1) * sizeof *records, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (records == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    epoll_fd = epoll_create1(0);
    int listener = listen_on_loopback(), could_write = 0;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        struct timespec wait = {0, 0}, *until = NULL;
        if (flood ? could_write : queued) {
            int64_t left = flood ? 0 : queue[0]->due - now_ns();
            if (left > 0) wait = (struct timespec){left / 1000000000, left % 1000000000};
            until = &wait;
        }
        int n = epoll_pwait2(epoll_fd, events, EVENTS, until, NULL);
        for (int i = 0; i < n; i++) {
            connection* c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (events[i].events & EPOLLOUT) flush(c);
            if (!c->closing && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && receive(c))
                read_requests(c);
            if (c->closing) drop(c);
        }
        could_write = emit_due();
    }
}
