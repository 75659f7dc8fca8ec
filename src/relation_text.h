/*-------------------------------------------------------------------------
 *
 * relation_text.h
 *	  Names of relations, for SQL and for messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DAYBOOK_RELATION_TEXT_H
#define DAYBOOK_RELATION_TEXT_H

/* A relation's name, qualified and quoted; its OID if it has been dropped. */
extern char *RelationText(Oid relation);

#endif							/* DAYBOOK_RELATION_TEXT_H */
