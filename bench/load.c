/* load: the client of the benchmarks. One thread, epoll, N connections, a fixed message, WebSocket frame or HTTP
 * request.
 *
 * Phases are asked for on standard input, one a line: "count N" exchanges N messages, "seconds S" exchanges for S
 * seconds. Each phase is answered by one line of JSON on standard output. Connections stay open from phase to phase
 * (except with --fresh), so a server can be measured in a steady state. End of input ends the program.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

enum protocol { TCP, UDP, TLS, HTTP, UNIX, WS };
enum http_state { HTTP_HEAD, HTTP_BODY, HTTP_CHUNK_SIZE, HTTP_CHUNK_DATA, HTTP_TRAILER };

struct options {
    enum protocol protocol;
    const char *host, *port;
    const char *method, *path, *body;
    unsigned connections, pipeline;
    size_t size;        /* bytes of a message we send (not HTTP) */
    size_t reply;       /* bytes of the answer to one message (not HTTP) */
    unsigned stall;     /* seconds without any progress after which a phase fails */
    bool fresh;         /* a new connection for each message, reset after the answer */
};

struct connection {
    int fd;
    bool writing;               /* messages are begun and not completely sent */
    bool waits_for_room;        /* EPOLLOUT is armed */
    size_t to_send;             /* bytes of those messages */
    size_t sent;                /* how many of them are sent */
    size_t got;                 /* bytes of the current answer (not HTTP) */
    unsigned in_flight;         /* messages begun and not answered */
    unsigned first;             /* ring of their starting times: oldest entry */
    uint64_t *started;
    enum http_state http;
    size_t body_left;           /* bytes left of the body, chunk or frame */
    bool control;               /* the frame is none of data (WebSocket) */
    uint64_t opened;            /* when the connection was begun */
    size_t head_length;
    char head[8192];            /* header block, chunk-size line or trailer line being read */
#ifdef WITH_TLS
    SSL *ssl;
    bool handshaking;
#endif
};

static struct options options = {
    .protocol = TCP, .host = "127.0.0.1", .method = "GET", .path = "/", .connections = 10, .pipeline = 1,
    .size = 1024, .stall = 20,
};
static struct connection *connections;
static char *message;
static const char *payload;     /* what an echo must repeat: the message, without a frame around it */
static size_t message_length;
static bool verify;             /* the answer must repeat the message */
static int epoll_fd;
static uint64_t to_start;       /* messages this phase may still begin */
static uint64_t outstanding;    /* messages begun and not answered, over all connections */
static unsigned opening;        /* TLS handshakes under way */
static uint64_t answered, received;
static uint32_t *latencies;     /* of this phase, in units of 100 ns */
static size_t latencies_room;
static char buffer[256 * 1024];
#ifdef WITH_TLS
static SSL_CTX *tls;
#endif

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes ? bytes : 1);
    if (memory == NULL)
        fail("out of memory");
    return memory;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Opening and closing. Connecting (and the WebSocket's opening, which is no part of a measurement) blocks, bounded by
 * the stall limit: on one machine it is answered from the listen queue at once, and a server that never answers must
 * not hang the measurement. TLS handshakes take their turns in the event loop. */

static struct addrinfo *address(void)
{
    static struct addrinfo *found;
    if (found == NULL && options.protocol == UNIX) {
        static struct sockaddr_un path = {.sun_family = AF_UNIX};
        static struct addrinfo local = {.ai_family = AF_UNIX, .ai_socktype = SOCK_STREAM};
        if (strlen(options.host) >= sizeof path.sun_path)
            fail("the path of the socket is too long: %s", options.host);
        strcpy(path.sun_path, options.host);
        local.ai_addr = (struct sockaddr *)&path;
        local.ai_addrlen = sizeof path;
        found = &local;
    }
    if (found == NULL) {
        struct addrinfo hints = {
            .ai_family = AF_UNSPEC,
            .ai_socktype = options.protocol == UDP ? SOCK_DGRAM : SOCK_STREAM,
        };
        int status = getaddrinfo(options.host, options.port, &hints, &found);
        if (status != 0)
            fail("%s port %s: %s", options.host, options.port, gai_strerror(status));
    }
    return found;
}

static void watch(struct connection *c, int operation, bool for_room)
{
    struct epoll_event event = {.events = EPOLLIN | (for_room ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
    c->waits_for_room = for_room;
}

/* The opening of a WebSocket, with the key and the answer that RFC 6455 gives as its example. */
static void upgrade(struct connection *c)
{
    char *request, answer[4096];
    size_t got = 0;
    int length = asprintf(&request, "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                          options.path, options.host, options.port);
    if (length < 0 || send(c->fd, request, (size_t)length, MSG_NOSIGNAL) != length)
        fail("the WebSocket cannot be opened: %s", strerror(errno));
    free(request);
    do { /* byte by byte: what follows the head is the first frame's */
        if (got == sizeof answer - 1 || recv(c->fd, answer + got, 1, 0) != 1)
            fail("the WebSocket was not opened");
        answer[++got] = '\0';
    } while (got < 4 || memcmp(answer + got - 4, "\r\n\r\n", 4) != 0);
    if (strncmp(answer, "HTTP/1.1 101", 12) != 0 || strstr(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == NULL)
        fail("the server answered: %.*s", (int)strcspn(answer, "\r\n"), answer);
}

#ifdef WITH_TLS
/* Takes the next step of a TLS handshake; returns whether it is complete. */
static bool handshake(struct connection *c)
{
    int done = SSL_do_handshake(c->ssl);
    int reason = done == 1 ? 0 : SSL_get_error(c->ssl, done);
    if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE)
        return false; /* what is written fits into the socket: the next step is always a read */
    if (done != 1)
        fail("TLS handshake: %s", ERR_peek_error() ? ERR_reason_error_string(ERR_get_error()) : "closed by the server");
    c->handshaking = false;
    opening--;
    return true;
}
#endif

static void open_connection(struct connection *c)
{
    struct addrinfo *a = address();
    struct timeval limit = {.tv_sec = options.stall};
    int one = 1;

    c->opened = now_ns();
    c->got = c->head_length = c->body_left = 0;
    c->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(c->fd, a->ai_addr, a->ai_addrlen) < 0)
        fail("connect to %s port %s: %s", options.host, options.port, strerror(errno));
    if (options.protocol != UDP && options.protocol != UNIX)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
#ifdef WITH_TLS
    if (options.protocol == TLS) {
        c->ssl = SSL_new(tls);
        if (c->ssl == NULL || !SSL_set_fd(c->ssl, c->fd))
            fail("TLS: %s", ERR_reason_error_string(ERR_get_error()));
        SSL_set_connect_state(c->ssl);
        c->handshaking = true;
        opening++;
    }
#endif
    if (options.protocol == WS)
        upgrade(c);
    if (fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK) < 0)
        fail("fcntl: %s", strerror(errno));
    watch(c, EPOLL_CTL_ADD, false);
#ifdef WITH_TLS
    if (c->handshaking)
        handshake(c);
#endif
}

static void reset_connection(struct connection *c)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
#ifdef WITH_TLS
    if (c->ssl != NULL)
        SSL_free(c->ssl);
    c->ssl = NULL;
#endif
    close(c->fd);
    c->fd = -1;
}

/* Bytes moved, or -1 when the socket has no room (or no data) now. Anything else ends the program. */

static ssize_t push(struct connection *c, const char *data, size_t length)
{
#ifdef WITH_TLS
    if (c->ssl != NULL) {
        int n = SSL_write(c->ssl, data, (int)length);
        if (n > 0)
            return n;
        int reason = SSL_get_error(c->ssl, n);
        if (reason == SSL_ERROR_WANT_WRITE || reason == SSL_ERROR_WANT_READ)
            return -1;
        fail("TLS write failed (reason %d)", reason);
    }
#endif
    ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        fail("send: %s", strerror(errno));
    return n;
}

static ssize_t pull(struct connection *c, char *data, size_t length)
{
#ifdef WITH_TLS
    if (c->ssl != NULL) {
        int n = SSL_read(c->ssl, data, (int)length);
        if (n > 0)
            return n;
        int reason = SSL_get_error(c->ssl, n);
        if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE)
            return -1;
        fail("TLS read failed (reason %d)", reason);
    }
#endif
    ssize_t n = recv(c->fd, data, length, 0);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        fail("recv: %s", strerror(errno));
    if (n == 0 && options.protocol != UDP)
        fail("the server closed the connection after %" PRIu64 " answers", answered);
    return n;
}

/* Begin as many messages as the pipeline depth and the phase allow. */
static void send_messages(struct connection *c)
{
#ifdef WITH_TLS
    if (c->handshaking)
        return;
#endif
    for (;;) {
        if (!c->writing) {
            unsigned count = options.protocol == UDP ? 1 : options.pipeline - c->in_flight;
            if (count > to_start)
                count = (unsigned)to_start;
            if (count == 0 || c->in_flight == options.pipeline)
                break;
            to_start -= count;
            outstanding += count;
            c->to_send = count * message_length;
            uint64_t begun = options.fresh ? c->opened : now_ns();
            while (count-- > 0)
                c->started[(c->first + c->in_flight++) % options.pipeline] = begun;
            c->writing = true;
            c->sent = 0;
        }
        ssize_t n = push(c, message + c->sent, c->to_send - c->sent);
        if (n < 0) {
            if (!c->waits_for_room)
                watch(c, EPOLL_CTL_MOD, true);
            return;
        }
        c->sent += (size_t)n;
        c->writing = c->sent < c->to_send;
    }
    if (c->waits_for_room)
        watch(c, EPOLL_CTL_MOD, false);
}

static void answer_complete(struct connection *c)
{
    if (c->in_flight == 0)
        fail("an answer came that nothing asked for");
    if (answered == latencies_room) {
        latencies_room = latencies_room ? latencies_room * 2 : 65536;
        latencies = realloc(latencies, latencies_room * sizeof *latencies);
        if (latencies == NULL)
            fail("out of memory");
    }
    uint64_t spent = (now_ns() - c->started[c->first]) / 100;
    latencies[answered++] = spent > UINT32_MAX ? UINT32_MAX : (uint32_t)spent;
    c->first = (c->first + 1) % options.pipeline;
    c->in_flight--;
    outstanding--;
}

static void take_echo(struct connection *c, const char *data, size_t length)
{
    while (length > 0) {
        size_t part = options.reply - c->got;
        if (part > length)
            part = length;
        if (verify && memcmp(data, payload + c->got, part) != 0)
            fail("the answer differs from what was sent");
        c->got += part;
        data += part;
        length -= part;
        if (c->got == options.reply) {
            c->got = 0;
            answer_complete(c);
        }
    }
}

/* HTTP/1.1 answers: Content-Length or chunked. The head buffer collects up to an end mark. */

static bool collect(struct connection *c, const char **data, size_t *length, const char *mark)
{
    size_t marked = strlen(mark);
    while (*length > 0) {
        if (c->head_length == sizeof c->head - 1)
            fail("an HTTP header block or chunk line is longer than %zu bytes", sizeof c->head - 1);
        c->head[c->head_length++] = *(*data)++;
        --*length;
        if (c->head_length >= marked && memcmp(c->head + c->head_length - marked, mark, marked) == 0) {
            c->head[c->head_length] = '\0';
            c->head_length = 0;
            return true;
        }
    }
    return false;
}

static void body_follows(struct connection *c)
{
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (strncmp(c->head, "HTTP/1.1 2", 10) != 0)
        fail("the server answered: %.*s", (int)strcspn(c->head, "\r\n"), c->head);
    if (strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL) {
        c->http = HTTP_CHUNK_SIZE;
    } else if (length != NULL) {
        c->body_left = strtoull(length + strlen("\r\ncontent-length:"), NULL, 10);
        c->http = HTTP_BODY;
    } else {
        fail("an HTTP answer has neither Content-Length nor chunks");
    }
}

static void take_http(struct connection *c, const char *data, size_t length)
{
    /* A body of no bytes ends without further input, hence the second condition. */
    while (length > 0 || (c->http == HTTP_BODY && c->body_left == 0)) {
        switch (c->http) {
        case HTTP_HEAD:
            if (collect(c, &data, &length, "\r\n\r\n"))
                body_follows(c);
            break;
        case HTTP_CHUNK_SIZE:
            if (collect(c, &data, &length, "\r\n")) {
                size_t chunk = strtoull(c->head, NULL, 16);
                c->body_left = chunk + 2;
                c->http = chunk ? HTTP_CHUNK_DATA : HTTP_TRAILER;
            }
            break;
        case HTTP_TRAILER:
            if (collect(c, &data, &length, "\r\n") && strcmp(c->head, "\r\n") == 0) {
                c->http = HTTP_HEAD;
                answer_complete(c);
            }
            break;
        case HTTP_BODY:
        case HTTP_CHUNK_DATA: {
            size_t part = length < c->body_left ? length : c->body_left;
            data += part;
            length -= part;
            c->body_left -= part;
            if (c->body_left == 0) {
                bool whole = c->http == HTTP_BODY;
                c->http = whole ? HTTP_HEAD : HTTP_CHUNK_SIZE;
                if (whole)
                    answer_complete(c);
            }
            break;
        }
        }
    }
}

/* Frames of a WebSocket as a server sends them, unmasked. Their payloads form the echo, however they are cut. */
static void take_frames(struct connection *c, const char *data, size_t length)
{
    while (length > 0) {
        if (c->body_left > 0) {
            size_t part = length < c->body_left ? length : c->body_left;
            if (!c->control)
                take_echo(c, data, part);
            data += part;
            length -= part;
            c->body_left -= part;
            continue;
        }
        const unsigned char *head = (const unsigned char *)c->head;
        c->head[c->head_length++] = *data++;
        length--;
        if (c->head_length < 2)
            continue;
        size_t extra = head[1] == 126 ? 2 : head[1] == 127 ? 8 : 0;
        if (c->head_length < 2 + extra)
            continue;
        if (head[1] & 0x80)
            fail("the server masks its frames");
        if ((head[0] & 0x0f) == 8)
            fail("the server closed the WebSocket");
        c->body_left = extra ? 0 : head[1];
        for (size_t i = 0; i < extra; i++)
            c->body_left = c->body_left << 8 | head[2 + i];
        c->control = head[0] & 8;
        c->head_length = 0;
    }
}

static void on_readable(struct connection *c)
{
    ssize_t n;
#ifdef WITH_TLS
    if (c->handshaking) {
        if (handshake(c))
            send_messages(c);
        return;
    }
#endif
    do {
        n = pull(c, buffer, sizeof buffer);
        if (n < 0)
            return;
        received += (uint64_t)n;
        if (options.protocol == HTTP)
            take_http(c, buffer, (size_t)n);
        else if (options.protocol == WS)
            take_frames(c, buffer, (size_t)n);
        else
            take_echo(c, buffer, (size_t)n);
#ifdef WITH_TLS
    } while (c->ssl != NULL && SSL_pending(c->ssl) > 0);
#else
    } while (0);
#endif
    if (options.fresh && c->in_flight == 0) {
        reset_connection(c);
        if (to_start == 0)
            return;
        open_connection(c);
    }
    send_messages(c);
}

/* One phase. `limit` is in nanoseconds, 0 for none. */
static double run_phase(uint64_t count, uint64_t limit)
{
    struct epoll_event events[64];
    uint64_t begun, deadline, progress;
    int n;

    answered = received = 0;
    to_start = limit ? UINT64_MAX : count;
    for (unsigned i = 0; i < options.connections; i++)
        if (connections[i].fd < 0 && (to_start > i))
            open_connection(&connections[i]);
    begun = progress = now_ns();
    deadline = limit ? begun + limit : UINT64_MAX;
    for (unsigned i = 0; i < options.connections; i++)
        if (connections[i].fd >= 0)
            send_messages(&connections[i]);
    while (outstanding + opening > 0) {
        n = epoll_wait(epoll_fd, events, 64, 1000);
        uint64_t now = now_ns();
        if (n > 0)
            progress = now;
        else if (now - progress > options.stall * UINT64_C(1000000000))
            fail("no answer for %u s (%" PRIu64 " answers before)", options.stall, answered);
        if (now >= deadline)
            to_start = 0;
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                send_messages(c);
            if (events[i].events & ~EPOLLOUT)
                on_readable(c);
        }
    }
    return (double)(now_ns() - begun) / 1e9;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double part)
{
    return answered ? latencies[(size_t)(part * (double)(answered - 1))] / 10.0 : 0.0;
}

static void report(double seconds)
{
    qsort(latencies, answered, sizeof *latencies, compare);
    printf("{\"messages\": %" PRIu64 ", \"seconds\": %.6f, \"bytes\": %" PRIu64
           ", \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n",
           answered, seconds, received, percentile(0.50), percentile(0.99), percentile(0.999),
           percentile(1.0));
    fflush(stdout);
}

/* One binary frame, masked as RFC 6455 wants it of clients; always with the same key, which costs the server no less. */
static void frame_message(void)
{
    static const unsigned char key[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t extra = options.size < 126 ? 0 : options.size < 65536 ? 2 : 8;
    size_t head = 2 + extra + sizeof key;
    unsigned char *frame = allocate(head + options.size);

    frame[0] = 0x82;
    frame[1] = (unsigned char)(0x80 | (extra == 0 ? options.size : extra == 2 ? 126 : 127));
    for (size_t i = 0; i < extra; i++)
        frame[2 + i] = (unsigned char)(options.size >> 8 * (extra - 1 - i));
    memcpy(frame + 2 + extra, key, sizeof key);
    for (size_t i = 0; i < options.size; i++)
        frame[head + i] = (unsigned char)payload[i] ^ key[i % sizeof key];
    message = (char *)frame;
    message_length = head + options.size;
}

static void prepare_message(void)
{
    if (options.protocol == HTTP) {
        int n = asprintf(&message, "%s %s HTTP/1.1\r\nHost: %s:%s\r\n%s", options.method, options.path, options.host,
                         options.port, options.body ? "" : "\r\n");
        if (n >= 0 && options.body != NULL) {
            char *head = message;
            n = asprintf(&message, "%sContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", head,
                         strlen(options.body), options.body);
            free(head);
        }
        if (n < 0)
            fail("out of memory");
        message_length = (size_t)n;
        return;
    }
    char *content = allocate(options.size);
    for (size_t i = 0; i < options.size; i++)
        content[i] = (char)('a' + i % 23);
    payload = message = content;
    message_length = options.size;
    verify = options.reply == options.size;
    if (options.protocol == WS)
        frame_message();
}

static char *repeated(const char *text, size_t length, unsigned times)
{
    char *all = allocate(length * times);
    for (unsigned i = 0; i < times; i++)
        memcpy(all + i * length, text, length);
    return all;
}

static void prepare_tls(void)
{
#ifdef WITH_TLS
    /* The server's certificate is made on the spot for the measurement, so there is nothing to verify it against. */
    tls = SSL_CTX_new(TLS_client_method());
    if (tls == NULL || !SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION))
        fail("no TLS 1.3: %s", ERR_reason_error_string(ERR_get_error()));
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
#else
    fail("built without OpenSSL: no TLS");
#endif
}

static unsigned long number(const char *name, const char *text, unsigned long least)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || end == text || *end != '\0' || *text == '-' || value < least)
        fail("%s must be a whole number of at least %lu, not '%s'", name, least, text);
    return value;
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"protocol", required_argument, NULL, 'p'}, {"host", required_argument, NULL, 'h'},
        {"port", required_argument, NULL, 'P'},     {"connections", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 's'},     {"reply", required_argument, NULL, 'r'},
        {"pipeline", required_argument, NULL, 'd'}, {"stall", required_argument, NULL, 't'},
        {"fresh", no_argument, NULL, 'f'},          {"method", required_argument, NULL, 'm'},
        {"path", required_argument, NULL, 'u'},     {"body", required_argument, NULL, 'b'},
        {"features", no_argument, NULL, 'F'},       {NULL, 0, NULL, 0},
    };
    static const char *const names[] = {[TCP] = "tcp", [UDP] = "udp", [TLS] = "tls", [HTTP] = "http",
                                         [UNIX] = "unix", [WS] = "ws"};
    int option;

    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (option) {
        case 'p': {
            unsigned i = 0;
            while (i <= WS && strcmp(names[i], optarg) != 0)
                i++;
            if (i > WS)
                fail("--protocol must be tcp, udp, tls, http, unix or ws, not '%s'", optarg);
            options.protocol = (enum protocol)i;
            break;
        }
        case 'h': options.host = optarg; break;
        case 'P': options.port = optarg; break;
        case 'c': options.connections = (unsigned)number("--connections", optarg, 1); break;
        case 's': options.size = number("--size", optarg, 1); break;
        case 'r': options.reply = number("--reply", optarg, 1); break;
        case 'd': options.pipeline = (unsigned)number("--pipeline", optarg, 1); break;
        case 't': options.stall = (unsigned)number("--stall", optarg, 1); break;
        case 'f': options.fresh = true; break;
        case 'm': options.method = optarg; break;
        case 'u': options.path = optarg; break;
        case 'b': options.body = optarg; break;
        case 'F':
#ifdef WITH_TLS
            puts("tcp udp http unix ws tls");
#else
            puts("tcp udp http unix ws");
#endif
            exit(0);
        default:
            exit(2);
        }
    }
    if (options.port == NULL || optind < argc)
        fail("give --port PORT and no other words; phases come on standard input");
    if (options.reply == 0)
        options.reply = options.size;
}

int main(int argc, char **argv)
{
    char line[128];
    double wanted;

    struct rlimit descriptors;

    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
    prepare_message();
    /* As many in a row as may be in flight, to be sent by one call: a call for each would cost more than the server's
     * part, and the measured limit would be ours. */
    message = repeated(message, message_length, options.pipeline);
    if (options.protocol == TLS)
        prepare_tls();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        fail("epoll_create1: %s", strerror(errno));
    connections = allocate(options.connections * sizeof *connections);
    for (unsigned i = 0; i < options.connections; i++) {
        connections[i].fd = -1;
        connections[i].started = allocate(options.pipeline * sizeof(uint64_t));
    }
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "count %lf", &wanted) == 1 && wanted >= 1)
            report(run_phase((uint64_t)wanted, 0));
        else if (sscanf(line, "seconds %lf", &wanted) == 1 && wanted > 0)
            report(run_phase(0, (uint64_t)(wanted * 1e9)));
        else
            fail("a phase is 'count N' or 'seconds S', not '%.*s'", (int)strcspn(line, "\n"), line);
    }
    return 0;
}
