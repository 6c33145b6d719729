package tenant

import "errors"

// Why a tenant's requests are refused, or what is to be done to it cannot be.
var (
	// ErrSuspended: reads and writes are refused until the tenant is resumed.
	ErrSuspended = errors.New("is suspended: its data is kept, and nothing of it is read or written until an administrator resumes it")
	// ErrUnknown: there is no tenant of that name.
	ErrUnknown = errors.New("does not exist")
	// ErrExists: there is a tenant of that name.
	ErrExists = errors.New("exists already")
	// ErrDropped: the tenant was deleted after the request had begun.
	ErrDropped = errors.New("was deleted while the request was on its way")
)

// IsRefusal reports whether an error says that a tenant's requests are refused, which the
// same request sent again does not mend.
func IsRefusal(err error) bool {
	return errors.Is(err, ErrSuspended) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrDropped)
}
