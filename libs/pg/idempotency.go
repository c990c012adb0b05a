package pg

import (
	"bytes"
	"context"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
)

// ErrKeyReused says that the idempotency key stands for another request. It is
// of kind fault.Conflict.
var ErrKeyReused = fault.New(fault.Conflict,
	"This `Idempotency-Key` was used for another request within the last 24 hours. Make up a new key for a new request.")

// Once runs do once for an account's key, and returns its answer, a JSON
// document. Within 24 hours the same key with the same request returns that
// answer again; with another one it returns ErrKeyReused. Calls of the store
// with the context that do gets are in one transaction with the answer: both
// last or neither. If do returns an error nothing is kept and the key is free.
// Whoever comes with the same key meanwhile waits.
func (s *Instances) Once(ctx context.Context, account, key string, request []byte, do func(context.Context) ([]byte, error)) ([]byte, error) {
	var answer []byte
	err := s.pool.enclose(ctx, func(ctx context.Context, q *queries.Queries) error {
		if err := q.SetAccount(ctx, account); err != nil {
			return err
		}
		if err := q.ForgetIdempotencyKeys(ctx); err != nil {
			return err
		}
		claimed, err := q.ClaimIdempotencyKey(ctx, queries.ClaimIdempotencyKeyParams{Account: account, Key: key, Request: request})
		if err != nil {
			return err
		}
		if claimed == 0 {
			before, err := q.GetIdempotencyKey(ctx, queries.GetIdempotencyKeyParams{Account: account, Key: key})
			if err == nil && !bytes.Equal(before.Request, request) {
				err = ErrKeyReused
			}
			answer = before.Answer
			return err
		}
		if answer, err = do(ctx); err != nil {
			return err
		}
		return q.KeepAnswer(ctx, queries.KeepAnswerParams{Account: account, Key: key, Answer: answer})
	})
	return answer, err
}
