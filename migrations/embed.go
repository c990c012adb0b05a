// Package migrations holds the database schema of a cell as numbered steps.
// Steps only expand: a column goes one release after its last reader.
package migrations

import "embed"

// FS holds NNNN_name.up.sql and NNNN_name.down.sql.
//
//go:embed *.sql
var FS embed.FS
