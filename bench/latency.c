/*
 * latency.c
 *	  How long after its COMMIT an event has come to where it is waited for.
 *
 *	  latency CONNECTION plain|daybook|both RATE SECONDS PAYLOAD
 *
 * Sessions append at RATE events a second in all.  With daybook each then
 * waits for the projection "balance" to have its own event; with plain the
 * transaction says NOTIFY, and one session that listens notes the arrival;
 * with both the same transaction is waited for in both ways.
 * The time is taken from when COMMIT is sent, so it has the commit in it.
 */
#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SESSIONS 16

static const char *connection;
static const char *payload;
static int	daybook;
static int	notify;
static int	count;				/* events of one session */
static double interval;			/* seconds between two of its events */
static double begin;
static double *sent;			/* when COMMIT was sent, by number of the event */
static double *arrived;
static double *notified;

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void
sleep_until(double when)
{
	double		left = when - now();

	if (left > 0)
	{
		struct timespec ts = {(time_t) left, (long) ((left - (time_t) left) * 1e9)};

		nanosleep(&ts, NULL);
	}
}

static PGconn *
connect_or_die(void)
{
	PGconn	   *conn = PQconnectdb(connection);

	if (PQstatus(conn) != CONNECTION_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(conn));
		exit(1);
	}
	return conn;
}

static void
check(PGconn *conn, PGresult *result)
{
	if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(conn));
		exit(1);
	}
	PQclear(result);
}

static void *
append(void *arg)
{
	int			session = (int) (long) arg;
	PGconn	   *conn = connect_or_die();
	char		stream[32];
	char		version[32];
	char		message[64];
	const char *values[] = {stream, payload, version};

	check(conn, PQexec(conn, "SET client_min_messages = error"));
	check(conn, PQprepare(conn, "append", daybook ?
						  "INSERT INTO event (stream_id, type, data) VALUES ($1, 'OrderPlaced', $2)" :
						  "INSERT INTO plain_event (stream_id, type, data, version) VALUES ($1, 'OrderPlaced', $2, $3)",
						  0, NULL));
	check(conn, PQprepare(conn, "wait", "SELECT daybook.wait_for_projection('balance')", 0, NULL));
	for (int i = 0; i < count; i++)
	{
		int			number = i * SESSIONS + session;

		sleep_until(begin + (i + (double) session / SESSIONS) * interval);
		snprintf(stream, sizeof(stream), "order-%d", number % 1000 + 1);
		snprintf(version, sizeof(version), "%ld", (long) time(NULL) * 1000000 + number);
		check(conn, PQexec(conn, "BEGIN"));
		check(conn, PQexecPrepared(conn, "append", daybook ? 2 : 3, values, NULL, NULL, 0));
		if (notify)
		{
			snprintf(message, sizeof(message), "NOTIFY latency, '%d'", number);
			check(conn, PQexec(conn, message));
		}
		sent[number] = now();
		check(conn, PQexec(conn, "COMMIT"));
		if (daybook)
		{
			check(conn, PQexecPrepared(conn, "wait", 0, NULL, NULL, NULL, 0));
			arrived[number] = now();
		}
	}
	PQfinish(conn);
	return NULL;
}

/* Notes arrivals until all have come. */
static void *
listen_for_all(void *arg)
{
	PGconn	   *conn = arg;
	int			missing = count * SESSIONS;

	while (missing > 0)
	{
		struct pollfd socket = {PQsocket(conn), POLLIN, 0};
		PGnotify   *arrival;

		if (poll(&socket, 1, 30000) == 0 || !PQconsumeInput(conn))
		{
			fprintf(stderr, "%d notifications have not come\n", missing);
			exit(1);
		}
		while ((arrival = PQnotifies(conn)) != NULL)
		{
			notified[atoi(arrival->extra)] = now();
			PQfreemem(arrival);
			missing--;
		}
	}
	return NULL;
}

static int
compare(const void *a, const void *b)
{
	double		difference = *(const double *) a - *(const double *) b;

	return (difference > 0) - (difference < 0);
}

/* Prints the percentiles of how long after the COMMITs that was, in milliseconds. */
static void
print_delays(const char *what, double *when, int total)
{
	for (int i = 0; i < total; i++)
		when[i] -= sent[i];
	qsort(when, total, sizeof(double), compare);
	printf("%sp50 %.3f\n%sp99 %.3f\n", what, when[total / 2] * 1e3,
		   what, when[total * 99 / 100] * 1e3);
}

int
main(int argc, char **argv)
{
	pthread_t	threads[SESSIONS + 1];
	int			total;
	double		end;

	if (argc != 6)
		return 2;
	connection = argv[1];
	daybook = strcmp(argv[2], "plain") != 0;
	notify = strcmp(argv[2], "daybook") != 0;
	count = atoi(argv[3]) * atoi(argv[4]) / SESSIONS;
	interval = (double) SESSIONS / atoi(argv[3]);
	payload = argv[5];
	total = count * SESSIONS;
	sent = calloc(total, sizeof(double));
	arrived = calloc(total, sizeof(double));
	notified = calloc(total, sizeof(double));

	if (notify)
	{
		PGconn	   *conn = connect_or_die();

		check(conn, PQexec(conn, "LISTEN latency"));
		pthread_create(&threads[SESSIONS], NULL, listen_for_all, conn);
	}
	begin = now() + 0.3;
	for (long i = 0; i < SESSIONS; i++)
		pthread_create(&threads[i], NULL, append, (void *) i);
	for (int i = 0; i < SESSIONS + notify; i++)
		pthread_join(threads[i], NULL);
	end = now();

	printf("events %d\nrate %.0f\n", total, total / (end - begin));
	if (daybook)
		print_delays("", arrived, total);
	if (daybook && notify)
		printf("notify events %d\n", total);
	if (notify)
		print_delays(daybook ? "notify " : "", notified, total);
	return 0;
}
