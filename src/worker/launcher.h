/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The server's launcher and the worker of each database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_LAUNCHER_H
#define DAYBOOK_LAUNCHER_H

extern void LauncherInit(void);
extern void DatabaseCommandsInit(void);

extern PGDLLEXPORT void daybook_launcher_main(Datum arg);
extern PGDLLEXPORT void daybook_database_worker_main(Datum arg);

#endif							/* DAYBOOK_LAUNCHER_H */
