package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
)

// Types of errors, as Prometheus's API names them.
const (
	errorBadData     = "bad_data"
	errorInternal    = "internal"
	errorNotFound    = "not_found"
	errorConflict    = "conflict"
	errorUnavailable = "unavailable"
	errorTooMany     = "too_many_requests"
	errorTimeout     = "timeout"
	errorCanceled    = "canceled"

	// Prometheus has no names for these: it checks no credentials.
	errorUnauthorized = "unauthorized"
	errorForbidden    = "forbidden"
	errorExec         = "execution"
)

// failure is an error in the form of Prometheus's API.
type failure struct {
	Status    string `json:"status"` // always "error"
	ErrorType string `json:"errorType"`
	Error     string `json:"error"`
}

// success is an answer in the form of Prometheus's API.
type success struct {
	Status string `json:"status"` // always "success"
	Data   any    `json:"data"`
	// Warnings say how the answer falls short.
	Warnings []string `json:"warnings,omitempty"`
}

// jsonAppender writes itself as json.Marshal would, faster; ok is false where it leaves
// that to it.
type jsonAppender interface {
	AppendJSON(dst []byte) (out []byte, ok bool)
}

func marshal(body any) ([]byte, error) {
	if a, is := body.(jsonAppender); is {
		if b, ok := a.AppendJSON(nil); ok {
			return b, nil
		}
	}
	return json.Marshal(body)
}

func respondJSON(w http.ResponseWriter, logger *slog.Logger, code int, body any) {
	b, err := marshal(body)
	if err != nil {
		logger.Error("an answer cannot be written as JSON", "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if _, err := w.Write(append(b, '\n')); err != nil {
		logger.Debug("the client did not take its answer", "err", err)
	}
}

func respondError(w http.ResponseWriter, logger *slog.Logger, code int, errorType, message string) {
	respondJSON(w, logger, code, failure{Status: "error", ErrorType: errorType, Error: message})
}

// decodeStrict decodes one JSON object; a field that is not known is an error that names
// it, and so is one of the wrong type.
func decodeStrict(text []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return fmt.Errorf("%s is a %s, it must be a %s", wrong.Field, wrong.Value, wrong.Type)
	}
	if err != nil {
		return fmt.Errorf("a JSON object is needed: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the JSON object")
	}
	return nil
}
