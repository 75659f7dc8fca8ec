/*
 * latency.c
 *	  How long after its COMMIT an event has come to where it is waited for.
 *
 *	  latency CONNECTION plain|plain_row|daybook|daybook_both RATE SECONDS PAYLOAD KEEP
 *
 * Sessions append at RATE events a second in all.  With daybook each then
 * waits for the projection "balance" to have its own event; with plain the
 * transaction says NOTIFY, and one session that listens notes the arrival;
 * with daybook_both the same transaction is waited for in both ways.  With
 * plain_row the session that listens brings a table up to date by the statement
 * KEEP, whose $1 is the new ids, and notes when that is committed.
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
#define MAX_ARRIVALS 1000		/* noted together */
#define MAX_ID 21				/* characters, with a comma */

static const char *connection;
static const char *payload;
static int	daybook;
static int	notify;
static int	keep_rows;
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
	PGresult   *appended;

	check(conn, PQexec(conn, "SET client_min_messages = error"));
	check(conn, PQprepare(conn, "append", daybook ?
						  "INSERT INTO event (stream_id, type, data) VALUES ($1, 'OrderPlaced', $2)" :
						  "INSERT INTO plain_event (stream_id, type, data, version) VALUES ($1, 'OrderPlaced', $2, $3) RETURNING id",
						  0, NULL));
	check(conn, PQprepare(conn, "wait", "SELECT daybook.wait_for_projection('balance')", 0, NULL));
	for (int i = 0; i < count; i++)
	{
		int			number = i * SESSIONS + session;

		sleep_until(begin + (i + (double) session / SESSIONS) * interval);
		snprintf(stream, sizeof(stream), "order-%d", number % 1000 + 1);
		snprintf(version, sizeof(version), "%ld", (long) time(NULL) * 1000000 + number);
		check(conn, PQexec(conn, "BEGIN"));
		appended = PQexecPrepared(conn, "append", daybook ? 2 : 3, values, NULL, NULL, 0);
		if (notify)
		{
			snprintf(message, sizeof(message), "NOTIFY latency, '%d %s'", number,
					 daybook ? "" : PQgetvalue(appended, 0, 0));
			check(conn, PQexec(conn, message));
		}
		check(conn, appended);
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

/* Brings the table up to date with the events of these ids, each after a comma. */
static void
keep(PGconn *conn, const char *ids)
{
	char		array[MAX_ARRIVALS * MAX_ID + 2];
	const char *values[] = {array};

	snprintf(array, sizeof(array), "{%s}", ids + 1);
	check(conn, PQexecPrepared(conn, "keep", 1, values, NULL, NULL, 0));
}

/* Notifications that have come while rows were kept are not waited for. */
static PGnotify *
next_arrival(PGconn *conn, int wait)
{
	PGnotify   *arrival;

	while ((arrival = PQnotifies(conn)) == NULL && wait)
	{
		struct pollfd socket = {PQsocket(conn), POLLIN, 0};

		if (poll(&socket, 1, 30000) == 0 || !PQconsumeInput(conn))
		{
			fprintf(stderr, "notifications have not come\n");
			exit(1);
		}
	}
	return arrival;
}

/* Notes arrivals until all have come. */
static void *
listen_for_all(void *arg)
{
	PGconn	   *conn = arg;
	int			missing = count * SESSIONS;

	while (missing > 0)
	{
		int			numbers[MAX_ARRIVALS];
		char		ids[MAX_ARRIVALS * MAX_ID] = "";
		size_t		length = 0;
		int			taken = 0;
		double		when;
		PGnotify   *arrival;

		while (taken < MAX_ARRIVALS && (arrival = next_arrival(conn, taken == 0)) != NULL)
		{
			numbers[taken++] = atoi(arrival->extra);
			length += snprintf(ids + length, sizeof(ids) - length, ",%s",
							   strchr(arrival->extra, ' ') + 1);
			PQfreemem(arrival);
		}
		if (keep_rows)
			keep(conn, ids);
		when = now();
		missing -= taken;
		while (taken > 0)
			notified[numbers[--taken]] = when;
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

	if (argc != 7)
		return 2;
	connection = argv[1];
	daybook = strncmp(argv[2], "daybook", 7) == 0;
	notify = strcmp(argv[2], "daybook") != 0;
	keep_rows = strcmp(argv[2], "plain_row") == 0;
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

		if (keep_rows)
			check(conn, PQprepare(conn, "keep", argv[6], 0, NULL));
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
