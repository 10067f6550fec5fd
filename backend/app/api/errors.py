"""Turns every failure into the one error shape: `{code, message, details, requestId}`.

Installed on the application by `main`. What is not known here is `internal`: logged with its
traceback and the request id, told without any detail.
"""

import logging
from collections.abc import Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from backend.app.api.dependencies import request_id_of
from backend.app.schemas.errors import ErrorCode, FieldError, WindFlowError

logger = logging.getLogger("windflow.api")

_BY_STATUS = {
    401: ErrorCode.NOT_AUTHENTICATED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.MESSAGE_TOO_LARGE,
    422: ErrorCode.INVALID_PAYLOAD,
}


def error_response(error: WindFlowError, request_id: str | None) -> JSONResponse:
    """Return the answer for an error of the table."""
    headers: dict[str, str] = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_seconds)))
    body = {
        "code": error.code.value,
        "message": error.message,
        "details": error.body_details(),
        "requestId": request_id,
    }
    return JSONResponse(body, status_code=error.status, headers=headers)


def field_errors(errors: Sequence[Any]) -> list[FieldError]:
    """Return pydantic's errors as field and rule, the field as the client spelled it, without where it stood."""
    return [FieldError(_field(item["loc"]), item["msg"]) for item in errors]


def _field(place: Sequence[Any]) -> str:
    where, *inside = place
    return ".".join(str(part) for part in inside) or str(where)


async def _windflow(request: Request, error: Exception) -> JSONResponse:
    return error_response(cast(WindFlowError, error), request_id_of(request))


async def _validation(request: Request, error: Exception) -> JSONResponse:
    errors = cast(RequestValidationError, error).errors()
    if any(item["type"] == "json_invalid" for item in errors):
        reason = errors[0].get("ctx", {}).get("error", "")
        return error_response(
            WindFlowError(ErrorCode.INVALID_JSON, f"the body is not valid JSON: {reason}"), request_id_of(request)
        )
    fields = field_errors(errors)
    message = "; ".join(f"{item.field}: {item.rule}" for item in fields[:3])
    return error_response(WindFlowError(ErrorCode.INVALID_PAYLOAD, message, fields=fields), request_id_of(request))


async def _http(request: Request, error: Exception) -> JSONResponse:
    refused = cast(HTTPException, error)
    code = _BY_STATUS.get(refused.status_code)
    if code is None:
        code = ErrorCode.INVALID_MESSAGE if refused.status_code < 500 else ErrorCode.INTERNAL
    response = error_response(WindFlowError(code, str(refused.detail)), request_id_of(request))
    response.headers.update(refused.headers or {})  # What the status needs: Allow with 405.
    return response


async def _storage(request: Request, error: Exception) -> JSONResponse:
    logger.error("storage unavailable: %s", error, extra={"request_id": request_id_of(request)})
    return error_response(WindFlowError(ErrorCode.STORAGE_UNAVAILABLE, retry_after_seconds=1), request_id_of(request))


async def _internal(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return await _storage(request, error)
    logger.error("a request failed", exc_info=error, extra={"request_id": request_id_of(request)})
    return error_response(WindFlowError(ErrorCode.INTERNAL), request_id_of(request))


def install_refusals(app: FastAPI) -> None:
    """Make an application that WindFlow was added to answer what WindFlow refuses; its own handlers stay as they are.

    For its lifespan: the handlers that the application was built with do not change any more, so it is built anew.
    """
    if WindFlowError not in app.exception_handlers:
        app.add_exception_handler(WindFlowError, _windflow)
        app.middleware_stack = app.build_middleware_stack()


def install_error_handlers(app: FastAPI) -> None:
    """Make the application answer every failure in the one shape."""
    app.add_exception_handler(WindFlowError, _windflow)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    for unavailable in (OperationalError, PoolTimeoutError, ConnectionError):
        app.add_exception_handler(unavailable, _storage)
    app.add_exception_handler(Exception, _internal)
