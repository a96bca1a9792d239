// The HTTP API, as this page needs it: JSON in and out, errors in words, and a key when the server wants one.

const STORED_KEY = "llmrec-api-key";

/** What went wrong, fit to be shown. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Api {
  /** ``askForKey(refused)`` resolves to a key, or to null where the user has none to give. */
  constructor(askForKey) {
    this.askForKey = askForKey;
    this.asking = null;
  }

  get key() {
    return sessionStorage.getItem(STORED_KEY);
  }

  get(path, parameters = {}, signal = undefined) {
    const query = new URLSearchParams(parameters).toString();
    return this.request(query ? `${path}?${query}` : path, { signal });
  }

  post(path, body, signal = undefined) {
    const headers = { "Content-Type": "application/json" };
    return this.request(path, { method: "POST", body: JSON.stringify(body), headers, signal });
  }

  /** Throws ApiError with words for people; a DOMException named AbortError where ``options.signal`` fired. */
  async request(path, options) {
    for (;;) {
      const tried = this.key;
      const response = await this.send(path, options, tried);
      if (response.ok) return response.json();
      if (response.status !== 401) throw new ApiError(await reason(response), response.status);
      // another request may have brought a new key meanwhile
      if (this.key === tried) await this.renewKey(tried !== null);
    }
  }

  async send(path, options, key) {
    const headers = { ...options.headers };
    if (key !== null) headers.Authorization = `Bearer ${key}`;
    try {
      return await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The server did not answer. Is it still running?", 0);
    }
  }

  /** Ask once, however many requests wait for the answer. */
  async renewKey(refused) {
    this.asking ??= this.askForKey(refused).finally(() => { this.asking = null; });
    const key = await this.asking;
    if (key === null) throw new ApiError("This server answers only with an API key.", 401);
    sessionStorage.setItem(STORED_KEY, key);
  }
}

async function reason(response) {
  const words = await response.json().then((body) => body.error?.message, () => undefined);
  return typeof words === "string" ? words : `The server answered ${response.status} ${response.statusText}`.trim();
}
