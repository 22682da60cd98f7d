import { Guard } from "./middleware.js";

export class Keyosk extends Guard {
  require(...scopes) {
    const admit = this.admit(scopes);
    return (request, response, next) => {
      admit(request.headers.authorization).then(({ token, refusal }) => {
        if (refusal) return response.status(refusal.status).set(refusal.headers).json(refusal.body);
        request.token = token;
        return next();
      }).catch(next);
    };
  }
}
