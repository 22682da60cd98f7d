import { Guard } from "./middleware.js";

export class Keyosk extends Guard {
  require(...scopes) {
    const admit = this.admit(scopes);
    // Before the body is read: whoever may not pass cannot make the service read it.
    const onRequest = async (request, reply) => {
      const { token, refusal } = await admit(request.headers.authorization);
      if (refusal) return reply.code(refusal.status).headers(refusal.headers).send(refusal.body);
      request.token = token;
    };
    return { onRequest };
  }
}
